"""Ingestion in bounded memory gives what the reader that holds all rows gives; stopped or damaged, it mends itself."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from damage import record_2014, record_2018, record_2023

from lwc.core.errors import DataError
from lwc.core.store import file_digest, read_json
from lwc.data.cleaning import clean, join
from lwc.data.ingest import dedupe, shards
from lwc.data.ingest.run import ingest
from lwc.data.ingest.stage import prepare_large
from lwc.data.prepare import prepare
from lwc.data.rows import Reason
from lwc.data.splits import NAMES, load_labels, load_split
from lwc.recipe import Columns, Data, Ingest, Labels, McAuleyFile, Split, TableFile

WORDS = [f"word{number}" for number in range(400)]
SMALL = Ingest(shard_mib=1, files_at_once=2)


def review(source: random.Random, number: int, make: Any) -> str:
    """A line whose text is mostly its own; sometimes a repeat, a conflict or a near copy of a text in any file."""
    record = json.loads(make(source, number))
    body = "reviewText" if "reviewText" in record else "text"
    kind = source.random()
    words = [source.choice(WORDS) for _ in range(source.randint(12, 60))]
    if kind < 0.15:
        words = random.Random(source.randrange(40)).choices(WORDS, k=40)  # one of forty texts, whatever its stars
    elif kind < 0.3:
        words = random.Random(1000 + source.randrange(40)).choices(WORDS, k=100)
        words[-1] = source.choice(WORDS)  # one of forty texts but for its end: similar to 0.97
    elif kind < 0.33:
        words = ["..."]
    record[body] = " ".join(words)
    return json.dumps(record)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three files of three formats, one of them of several blocks."""
    folder = tmp_path_factory.mktemp("reviews")
    source = random.Random(8)
    found = []
    for name, make, count in (
        ("a.json", record_2014, 2000),
        ("b.json.gz", record_2018, 300),
        ("c.jsonl.gz", record_2023, 300),
    ):
        content = "\n".join(review(source, number, make) for number in range(count)).encode()
        path = folder / name
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        found.append(str(path))
    return tuple(found)


def run(data: Data, out: Path) -> dict[str, Any]:
    with ThreadPoolExecutor(2) as pool:
        return ingest(data, 17, out, 2, pool=pool)


def rows(folder: Path, split: str) -> list[tuple[Any, ...]]:
    path = folder / split if (folder / split).is_dir() else folder / f"{split}.parquet"
    frame = pd.read_parquet(path)
    return sorted(zip(frame.text, frame.label, frame.user.fillna(""), frame.item, frame.time, strict=True))


def reviews(files: tuple[str, ...], **changes: Any) -> Data:
    return Data(source=McAuleyFile(kind="mcauley", paths=files), max_bad_rows=0.2, ingest=SMALL, **changes)


@pytest.fixture(scope="module")
def done(files: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("done") / "out"
    return out, run(reviews(files), out)


@pytest.mark.parametrize("by", ["user", "time", "auto"])
def test_splits_are_those_of_the_reader_that_holds_all_rows(files: tuple[str, ...], tmp_path: Path, by: Any) -> None:
    if by == "auto":  # some rows have no user
        files = (*files, str(tmp_path / "nameless.json"))
        source = random.Random(9)
        lines = [json.loads(review(source, number, record_2014)) for number in range(300)]
        (tmp_path / "nameless.json").write_text("\n".join(json.dumps({**one, "reviewerID": None}) for one in lines))
    data = reviews(files, split=Split(by=by), labels=Labels(scheme="three_class"))
    quality = run(data, tmp_path / "stream")
    (tmp_path / "memory").mkdir()
    whole = prepare(data.model_copy(update={"ingest": None}), 17, tmp_path / "memory")
    for key in ("rows_read", "rows_bad", "rows_left_out_by_label_scheme", "split_by", "label_names"):
        assert quality[key] == whole[key], key
    assert quality["split_by"] == ("user" if by == "auto" else by)
    assert (quality["rows_without_user"] > 100) == (by == "auto")
    mine, theirs = quality["duplicates"], whole["duplicates"]
    assert {**mine, "near": 0} == {**theirs, "near": 0}
    assert mine["conflicting_labels"] > 20
    # Both look for near duplicates by chance, with other hashes: each may miss a pair in hundreds.
    assert mine["near"] > 100
    assert abs(mine["near"] - theirs["near"]) <= 3
    for split in NAMES:
        one, other = rows(tmp_path / "stream", split), rows(tmp_path / "memory", split)
        assert len(set(one) ^ set(other)) <= (12 if by == "time" else 3)
        assert len(one) > 50


def test_every_row_that_was_read_is_accounted_for(done: tuple[Path, dict[str, Any]]) -> None:
    out, quality = done
    bad = sum(quality["rows_bad"].values())
    lost = bad + quality["rows_left_out_by_label_scheme"] + sum(quality["duplicates"].values())
    assert quality["rows_read"] == lost + quality["rows_used"] == 2600
    assert sum(1 for _ in (out / "quarantine.jsonl").open()) == bad > 0
    assert sum(len(rows(out, split)) for split in NAMES) == quality["rows_used"]
    ids = pd.concat([pd.read_parquet(out / split, columns=["id"]) for split in NAMES]).id
    assert ids.is_unique
    users = [set(pd.read_parquet(out / split).user) for split in NAMES]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert not users[1] & users[2]


def test_file_and_line_of_a_shard_lead_back_to_the_source(
    done: tuple[Path, dict[str, Any]], files: tuple[str, ...]
) -> None:
    frame = pd.read_parquet(done[0] / "train")
    assert set(frame.file) == {0, 1, 2}
    for row in frame.sample(40, random_state=1).itertuples():
        raw = Path(files[row.file]).read_bytes()
        lines = (gzip.decompress(raw) if files[row.file].endswith("gz") else raw).split(b"\n")
        record = json.loads(lines[row.line - 1])
        assert record.get("text", record.get("reviewText")) == row.text


def contents(out: Path) -> dict[str, str]:
    return dict(read_json(out / "manifest.json")["files"])


def test_a_second_run_makes_nothing_anew(done: tuple[Path, dict[str, Any]], files: tuple[str, ...]) -> None:
    out, quality = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    again = run(reviews(files), out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert {**again, "seconds": 0} == {**quality, "seconds": 0}
    assert not list((out / "parts").glob("*.arrow"))


@pytest.mark.parametrize("harm", ["shard", "summary", "decisions", "quarantine"])
def test_what_fails_its_checksum_is_rebuilt_to_the_same_bytes(
    files: tuple[str, ...], tmp_path: Path, harm: str
) -> None:
    run(reviews(files), tmp_path)
    before = contents(tmp_path)
    victim = {
        "shard": max((tmp_path / "train").iterdir(), key=lambda path: path.stat().st_size),
        "summary": next((tmp_path / "shards").iterdir()),
        "decisions": tmp_path / "decisions.npy",
        "quarantine": next((tmp_path / "parts").glob("*.bad.jsonl")),
    }[harm]
    if harm == "quarantine":
        victim.unlink()
    else:
        raw = bytearray(victim.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        victim.write_bytes(raw)
    run(reviews(files), tmp_path)
    assert contents(tmp_path) == before
    assert all(file_digest(tmp_path / name) == digest for name, digest in before.items())


class Stopped(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("at", ["exact duplicates", "near duplicates, band 3"])
def test_stopped_in_the_middle_it_goes_on_to_the_same_result(
    files: tuple[str, ...], tmp_path: Path, done: tuple[Path, dict[str, Any]], at: str
) -> None:
    def stop(text: str) -> None:
        if text.startswith(at):
            raise Stopped

    with ThreadPoolExecutor(2) as pool, pytest.raises(Stopped):
        ingest(reviews(files), 17, tmp_path, 2, stop, pool)
    (part, *_) = sorted((tmp_path / "parts").glob("*.rows.arrow"))
    part.write_bytes(part.read_bytes()[:-100])  # and one part was half written
    run(reviews(files), tmp_path)
    assert contents(tmp_path) == contents(done[0])


def test_stopped_while_shards_are_written_only_the_others_are_made(
    files: tuple[str, ...], tmp_path: Path, done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = shards.write_shard, []

    def twice(*call: Any) -> dict[str, Any]:
        if len(made) == 2:
            raise Stopped
        made.append(call[1])
        return real(*call)

    monkeypatch.setattr(shards, "write_shard", twice)
    with ThreadPoolExecutor(1) as pool, pytest.raises(Stopped):
        ingest(reviews(files), 17, tmp_path, 1, pool=pool)
    monkeypatch.setattr(shards, "write_shard", lambda *call: made.append(call[1]) or real(*call))
    run(reviews(files), tmp_path)
    assert sorted(made) == sorted(set(made))
    assert len(made) == len(read_json(tmp_path / "parts.json")) > 3
    assert contents(tmp_path) == contents(done[0])


def test_duplicates_do_not_depend_on_how_many_hashes_are_merged_at_a_time(
    files: tuple[str, ...], tmp_path: Path, done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "_RANGE", 100)
    monkeypatch.setattr(dedupe, "_COMPARED", 7)
    run(reviews(files), tmp_path)
    assert contents(tmp_path) == contents(done[0])


def test_a_folder_of_another_ingestion_or_of_other_things_is_refused(
    done: tuple[Path, dict[str, Any]], files: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="another data"):
        run(reviews(files, labels=Labels(scheme="five_class")), done[0])
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="other things"):
        run(reviews(files), tmp_path)


def stopped_run(data: Data, out: Path) -> None:
    """An ingestion that was stopped when everything was read."""

    def stop(text: str) -> None:
        if text.startswith("exact duplicates"):
            raise Stopped

    with ThreadPoolExecutor(2) as pool, pytest.raises(Stopped):
        ingest(data, 17, out, 2, stop, pool)


@pytest.mark.parametrize("what", ["touched", "longer", "as long"])
def test_content_decides_whether_a_stopped_ingestion_resumes_or_starts_over(tmp_path: Path, what: str) -> None:
    source = random.Random(5)
    path, out = tmp_path / "a.json", tmp_path / "out"
    lines = [review(source, number, record_2014) for number in range(200)]
    path.write_text("\n".join(lines))
    stopped_run(reviews((str(path),)), out)
    os.utime(out / "parts.json", (1, 1))
    lines[7] = lines[7].replace("word", {"touched": "word", "longer": "words", "as long": "wort"}[what], 1)
    path.write_text("\n".join(lines))
    os.utime(path, (1e9, 1e9))
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        ingest(reviews((str(path),)), 17, out, 2, said.append, pool)
    assert any("starting over" in line for line in said) == (what != "touched")
    assert ((out / "parts.json").stat().st_mtime == 1) == (what == "touched")
    run(reviews((str(path),)), tmp_path / "again")
    assert contents(out) == contents(tmp_path / "again")


def test_a_finished_ingestion_is_not_thrown_away(tmp_path: Path) -> None:
    source = random.Random(5)
    path, out = tmp_path / "a.json", tmp_path / "out"
    lines = [review(source, number, record_2014) for number in range(200)]
    path.write_text("\n".join(lines))
    run(reviews((str(path),)), out)
    before = contents(out)
    os.utime(path, (1e9, 1e9))
    run(reviews((str(path),)), out)
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="another files"):
        run(reviews((str(path),)), out)
    assert contents(out) == before


def test_two_at_once_in_one_folder_are_refused(files: tuple[str, ...], tmp_path: Path) -> None:
    def second(text: str) -> None:
        run(reviews(files), tmp_path)

    with ThreadPoolExecutor(2) as pool, pytest.raises(DataError, match="another process"):
        ingest(reviews(files), 17, tmp_path, 2, second, pool)


def test_processes_do_the_same_work_and_csv_and_parquet_are_read_too(tmp_path: Path) -> None:
    source = random.Random(3)
    texts = [
        " ".join(source.choices(WORDS, k=20)) + ('\nsecond line, "quoted"' if n % 5 == 0 else "") for n in range(400)
    ]
    frame = pd.DataFrame(
        {"text": texts, "stars": [str(n % 5 + 1) for n in range(400)], "who": [f"u{n % 90}" for n in range(400)]}
    )
    frame[:200].to_csv(tmp_path / "a.csv", index=False)
    frame[200:].to_parquet(tmp_path / "b.parquet")
    table = TableFile(kind="table", paths=(str(tmp_path / "a.csv"), str(tmp_path / "b.parquet")),
                      columns=Columns(rating="stars", user="who"))  # fmt: skip
    quality = ingest(Data(source=table, ingest=SMALL), 17, tmp_path / "out", 2)
    assert quality["rows_used"] == 320
    (tmp_path / "memory").mkdir()
    prepare(Data(source=table), 17, tmp_path / "memory")
    for split in NAMES:
        mine = pd.read_parquet(tmp_path / "out" / split)
        assert sorted(mine.text) == sorted(pd.read_parquet(tmp_path / "memory" / f"{split}.parquet").text)


def test_metadata_is_joined_by_the_parent_item(files: tuple[str, ...], tmp_path: Path) -> None:
    meta = tmp_path / "meta.jsonl"
    lines = [
        {"parent_asin": "p1", "title": "A cable", "store": "Acme", "main_category": "Electronics", "categories": ["x"]},
        {"asin": "a1", "title": "An old cable", "brand": "Old", "category": ["Cables", "Long"]},
        {"asin": "a1", "title": "A second description"},
        {"title": "without an id"},
    ]
    meta.write_text("\n".join(map(json.dumps, lines)))
    data = reviews(files).model_copy(update={"ingest": Ingest(shard_mib=1, metadata=(str(meta),))})
    quality = run(data, tmp_path / "out")
    assert quality["metadata"] == {"read": 4, "items": 2, "bad": 1}
    frame = pd.concat([pd.read_parquet(tmp_path / "out" / split) for split in NAMES])
    described = frame[frame.item == "p1"][["item_title", "item_brand", "item_category"]].drop_duplicates()
    assert described.values.tolist() == [["A cable", "Acme", "Electronics"]]
    assert set(frame[frame.item == "a1"].item_title) == {"An old cable"}
    assert set(frame[frame.item == "a1"].item_category) == {"Cables"}
    assert frame[~frame.item.isin(["p1", "a1"])].item_title.isna().all()


def test_too_many_bad_rows_and_missing_users_are_told_as_before(files: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than data"):
        run(reviews(files).model_copy(update={"max_bad_rows": 0.0}), tmp_path / "a")
    assert run(reviews(files), tmp_path / "a")["rows_used"] > 0  # the limit may be raised: nothing is read again
    frame = pd.DataFrame({"text": [" ".join(WORDS[n : n + 9]) for n in range(60)], "stars": [5, 1] * 30})
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    table = TableFile(kind="table", paths=(str(tmp_path / "t.jsonl"),), columns=Columns(rating="stars"))
    with pytest.raises(DataError, match="60 of 60 rows have no user"):
        run(Data(source=table, split=Split(by="user")), tmp_path / "b")
    quality = run(Data(source=table), tmp_path / "c")
    assert quality["split_by"] == "random"
    assert all(found["rows"] > 0 for found in quality["splits"].values())
    wrong = TableFile(kind="table", paths=(str(tmp_path / "t.jsonl"),), columns=Columns(rating="starz"))
    with pytest.raises(DataError, match="did you mean 'stars'"):
        run(Data(source=wrong, max_bad_rows=1), tmp_path / "d")


def test_the_data_stage_of_a_large_source_writes_what_every_other_stage_reads(
    files: tuple[str, ...], tmp_path: Path, done: tuple[Path, dict[str, Any]]
) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    for folder in (out, scratch):
        folder.mkdir()
    whole = prepare_large(reviews(files, calibration=60), 17, out, scratch, lambda _: None, 2)
    for split in NAMES:
        assert rows(out, split) == rows(done[0], split)
    calibration, train = load_split(out, "calibration"), load_split(out, "train")
    assert 55 <= len(calibration) <= 65
    assert set(calibration.ids) <= set(train.ids)
    assert load_labels(out) == ["negative", "positive"]
    raw = pd.read_parquet(out / "test_raw.parquet")
    assert set(raw.id) <= set(load_split(out, "test").ids)
    (tmp_path / "few").mkdir()
    data = reviews(files, calibration=60, limit=500)
    few = prepare_large(data, 17, tmp_path / "few", scratch, lambda _: None, 2)  # the shards are there: nothing is read
    assert few["rows_used"] == 500 == sum(len(load_split(tmp_path / "few", split)) for split in NAMES)
    assert set(load_split(tmp_path / "few", "test").ids) <= set(load_split(out, "test").ids)
    assert {**whole["duplicates"]} == {**few["duplicates"]}


def test_moments_end_the_shares_where_sorting_all_rows_ends_them(
    files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [np.random.default_rng(seed).integers(0, 5 * 86_400, 300) // 977 * 977 for seed in range(4)]
    monkeypatch.setattr(shards, "_times", lambda parts, decisions: iter(times))
    every = np.sort(np.concatenate(times))
    for share in (0.05, 0.5, 0.7, 0.9):
        (moment,) = shards.moments(None, None, (share,))  # type: ignore[arg-type]
        before = np.searchsorted(every, every, side="left") / len(every)
        assert ((every < moment) == (before < share)).all()


def test_killed_it_leaves_no_worker_behind_and_goes_on(
    files: tuple[str, ...], tmp_path: Path, done: tuple[Path, dict[str, Any]]
) -> None:
    code = (
        "import pathlib, sys\n"
        "from lwc.data.ingest.run import ingest\n"
        "from lwc.recipe import Data\n"
        "if __name__ == '__main__':\n"
        "    ingest(Data.model_validate_json(sys.argv[1]), 17, pathlib.Path(sys.argv[2]), 2)\n"
    )
    (tmp_path / "line.py").write_text(code)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "line.py"), reviews(files).model_dump_json(), str(out)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(dedupe.__file__).parents[3])})
    deadline = time.monotonic() + 120
    while not list((out / "parts").glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait()
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers
    assert not any(map(psutil.pid_exists, workers))
    run(reviews(files), out)
    assert contents(out) == contents(done[0])


def test_both_readers_keep_the_test_texts_as_users_send_them(tmp_path: Path) -> None:
    source = random.Random(4)
    lines = []
    for number in range(300):
        words = " ".join(source.choice(WORDS) for _ in range(20)) + f" n{number}"
        odd = source.choice(["", "<br />", " &quot;x&quot;", "  ", "\ud83d", "e\u0301", "\n"])
        lines.append(json.dumps({"text": f"{odd}{words}{odd}.", "stars": number % 5 + 1}))
    lines.append(json.dumps({"text": "word " * 50_000, "stars": 1}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = TableFile(kind="table", paths=(str(tmp_path / "t.jsonl"),), columns=Columns(rating="stars"))
    data = Data(source=table, calibration=20)
    sent = []
    for way in ("held", "streamed"):
        out, scratch = tmp_path / way, tmp_path / f"{way}-scratch"
        for folder in (out, scratch):
            folder.mkdir()
        if way == "held":
            quality = prepare(data, 17, out)
        else:
            quality = prepare_large(data.model_copy(update={"ingest": SMALL}), 17, out, scratch, lambda _: None, 2)
        assert quality["rows_bad"] == {Reason.TOO_LONG: 1}
        test, raw = (pd.read_parquet(out / f"{name}.parquet").set_index("id")["text"] for name in ("test", "test_raw"))
        assert 20 < len(raw) < len(test)
        assert all(clean(text) == test[number] != text for number, text in raw.items())
        sent.append({text: raw.get(number, text) for number, text in test.items()})
    both = sent[0].keys() & sent[1].keys()
    assert len(both) > 5
    assert all(sent[0][text] == sent[1][text] for text in both)


@pytest.mark.parametrize("fields", [("title", "body"), ("body", "title")])
def test_both_readers_keep_titles_by_themselves(tmp_path: Path, fields: tuple[str, ...]) -> None:
    source = random.Random(6)
    lines = []
    for number in range(300):
        body = "<br />".join(source.choice(WORDS) for _ in range(20)) + f" n{number}"
        lines.append(
            json.dumps({"text": body, "head": source.choice(["", "A &amp; B", "\n"]), "stars": number % 5 + 1})
        )
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    columns = Columns(rating="stars", title="head")
    data = Data(
        source=TableFile(kind="table", paths=(str(tmp_path / "t.jsonl"),), columns=columns), calibration=20,
        text_fields=fields,
    )  # fmt: skip
    written = {json.loads(line)["text"]: json.loads(line)["head"] for line in lines}
    for way in ("held", "streamed"):
        out, scratch = tmp_path / way, tmp_path / f"{way}-scratch"
        for folder in (out, scratch):
            folder.mkdir()
        if way == "held":
            prepare(data, 17, out)
        else:
            prepare_large(data.model_copy(update={"ingest": SMALL}), 17, out, scratch, lambda _: None, 2)
        test, raw = (pd.read_parquet(out / f"{name}.parquet").set_index("id") for name in ("test", "test_raw"))
        assert list(raw.columns) == ["text", "title"]
        assert sorted(raw.index) == sorted(test.index)
        for number, row in raw.iterrows():
            assert written[row["text"]].strip() == row["title"].strip()
            parts = {"title": row["title"], "body": row["text"]}
            assert clean(join(parts[field] for field in fields)) == test["text"][number]
