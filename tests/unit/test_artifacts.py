"""The store: nothing half-written is trusted, equal content gives equal digests."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lwc.core.errors import LwcError
from lwc.core.store import MANIFEST, Store, digest_paths, key_of, publish_folder, read_json, write_json, write_whole

KEY = key_of({"stage": "train", "config": {"epochs": 1}})


def build(store: Store, text: str = "weights") -> Path:
    with store.build("train", KEY) as (out, _):
        (out / "model").mkdir()
        (out / "model" / "weights").write_text(text)
        return store.commit("train", KEY, {"stage": "train"}, 1.5).path


def test_a_committed_result_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("train", KEY) is None
    path = build(store)
    found = store.find("train", KEY)
    assert found is not None
    assert found.path == path
    assert found.seconds == 1.5
    assert not (tmp_path / "work" / f"train-{KEY[:24]}").exists()


def test_an_uncommitted_result_is_not_found_and_scratch_survives(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.build("train", KEY) as (out, scratch):
        (out / "half").write_text("x")
        (scratch / "checkpoint").write_text("step 40")
    assert store.find("train", KEY) is None
    with store.build("train", KEY) as (out, scratch):
        assert list(out.iterdir()) == [], "half-written output is gone"
        assert (scratch / "checkpoint").read_text() == "step 40"


@pytest.mark.parametrize("damage", ["truncate", "change", "delete", "manifest", "no manifest"])
def test_a_damaged_result_is_a_miss(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    path = build(store)
    weights = path / "model" / "weights"
    if damage == "truncate":
        weights.write_text("wei")
    elif damage == "change":
        weights.write_text("WEIGHTS")
    elif damage == "delete":
        weights.unlink()
    elif damage == "manifest":
        (path / MANIFEST).write_text('{"key": ')
    else:
        (path / MANIFEST).unlink()
    assert store.find("train", KEY) is None
    build(store)
    assert store.find("train", KEY) is not None, "a rebuild replaces what was damaged"


def test_digest_is_of_content_not_of_time_or_place(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    build(first)
    build(second)
    one, two = first.find("train", KEY), second.find("train", KEY)
    assert one is not None
    assert two is not None
    assert one.digest == two.digest
    build(second, "other")
    three = second.find("train", KEY)
    assert three is not None
    assert three.digest != one.digest


def test_same_name_with_new_bytes_is_another_digest(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text("a")
    before = digest_paths([file])
    file.write_text("b")
    assert digest_paths([file]) != before


def test_json_is_whole_and_finite(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}, "the old file is still whole"
    path.write_text("{")
    with pytest.raises(LwcError, match="not valid JSON"):
        read_json(path)
    assert json.loads('{"a": 1}') == {"a": 1}


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    """A limit on the size of files makes writes fail as a full disk does, after a part is written."""
    (tmp_path / "old").write_text("old")
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom lwc.core.store import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for name in ('old', 'new'):\n"
        "    for content in (b'x' * 5000, lambda file: [file.write(b'x' * 400) for _ in range(5)]):\n"
        "        try:\n"
        "            write_whole(Path(sys.argv[1]) / name, content)\n"
        "        except OSError as error:\n"
        "            print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["27"] * 4, "EFBIG"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"
    write_whole(tmp_path / "new", lambda file: file.write(b"whole"))
    assert (tmp_path / "new").read_bytes() == b"whole"


def test_publishing_replaces_and_leaves_no_rest(tmp_path: Path) -> None:
    for text in ("one", "two"):
        source = tmp_path / text
        source.mkdir()
        (source / text).write_text(text)
        publish_folder(source, tmp_path / "models" / "name")
    assert [p.name for p in (tmp_path / "models" / "name").iterdir()] == ["two"]
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["name"]


def test_a_published_folder_is_a_copy_and_has_what_is_added_before_it_takes_its_place(tmp_path: Path) -> None:
    source, place = tmp_path / "made", tmp_path / "models" / "name"
    source.mkdir()
    (source / "weights").write_text("measured")
    publish_folder(source, place, {"README.md": "one"})
    with (place / "weights").open("r+") as file:
        file.write("edited..")
    assert (source / "weights").read_text() == "measured", "people edit a published file in place"
    with pytest.raises(FileNotFoundError):
        publish_folder(source, place, {"nowhere/README.md": "two"})
    assert {path.name: path.read_text() for path in place.iterdir()} == {"weights": "edited..", "README.md": "one"}
    assert [path.name for path in place.parent.iterdir()] == ["name"]


@pytest.mark.parametrize("older", [True, False])
def test_a_full_disk_while_publishing_leaves_nothing_half_copied(tmp_path: Path, older: bool) -> None:
    source, models = tmp_path / "made", tmp_path / "models"
    (source / "sub").mkdir(parents=True)
    (source / "small").write_text("new")
    (source / "sub" / "large").write_bytes(b"x" * 5000)
    if older:
        (models / "name").mkdir(parents=True)
        (models / "name" / "small").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # writes fail as on a full disk
    try:
        with pytest.raises(LwcError, match="models/name: no space left on this disk") as caught:
            publish_folder(source, models / "name")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == 1
    assert "free some space" in caught.value.hint
    assert [path.name for path in models.iterdir()] == (["name"] if older else [])
    if older:
        assert (models / "name" / "small").read_text() == "old"


def test_two_processes_take_turns(tmp_path: Path) -> None:
    """The second says whom it waits for, finds the folder gone after the commit, and builds all the same."""
    store = Store(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom lwc.core.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "with store.build('train', sys.argv[2], lambda holder: print(holder, flush=True)) as (out, _):\n"
        "    (out / 'weights').write_text('two')\n"
        "    store.commit('train', sys.argv[2], {}, 1.0)\n"
    )
    with store.build("train", KEY) as (out, _):
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), KEY], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        told = other.stdout.readline()
        assert re.fullmatch(rf"pid {os.getpid()}, since \d\d:\d\d\n", told)
        time.sleep(0.2)
        assert other.poll() is None, "it waits"
        (out / "weights").write_text("one")
        store.commit("train", KEY, {}, 1.0)
    assert other.wait(timeout=60) == 0
    found = store.find("train", KEY)
    assert found is not None
    assert (found.path / "weights").read_text() == "two"
