"""Rollouts on files alone: killed at whatever step, the folder is a repository to serve and to go on with."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grid import kept
from tiny_repository import tiny_repository

from lwc.core.errors import LwcError, ModelError, RecipeError
from lwc.serving.checks.run import inspect_repository
from lwc.serving.rollout.canary import Limits, faults
from lwc.serving.rollout.run import Target, deploy, rollback
from lwc.serving.rollout.versions import Place, calls, live_number, locked, read_configs


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four versions of one model, told apart by their first label."""
    folder = tmp_path_factory.mktemp("builds")
    return [tiny_repository(folder / f"r{number}", labels=(f"great{number}", "other")) for number in range(4)]


def served_label(folder: Path) -> str:
    """First label of what a server would make of ``folder``; fails where it would not start or a model is missing."""
    errors = [str(finding) for finding in inspect_repository(folder) if finding.severity == "error"]
    assert not errors
    configs = read_configs(folder)
    called = calls(configs["reviews"])
    name = called[0] if configs["reviews"].platform == "ensemble" else "reviews"
    (token_model,) = calls(configs[name])
    labels = (folder / name / "labels.txt").read_text().splitlines()[0]
    assert (folder / token_model / "labels.txt").read_text().splitlines()[0] == labels, "a mixture of two versions"
    return labels


def models(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "empty folder"])
def test_the_first_deploy_makes_a_repository(tmp_path: Path, builds: list[Path], there: bool) -> None:
    folder = tmp_path / "models"
    if there:
        folder.mkdir()
    result = deploy(builds[0], Target(folder))
    assert result == {"model": "reviews", "version": 1, "previous": None, "check": None}
    assert models(folder) == ["reviews", "reviews-v1", "reviews_tokens-v1"]
    assert served_label(folder) == "great0"
    assert [path.name for path in tmp_path.iterdir()] == ["models"], "staging is left beside the folder"


def test_a_repository_put_there_by_hand_is_version_1_and_can_be_gone_back_to(
    tmp_path: Path, builds: list[Path]
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(builds[0], folder)
    assert deploy(builds[1], Target(folder))["previous"] == 1
    assert models(folder) == ["reviews", "reviews-v2", "reviews_tokens-v2"]
    assert served_label(folder) == "great1"
    assert rollback(Target(folder)) == {"model": "reviews", "version": 1, "previous": 2}
    assert models(folder) == ["reviews", "reviews_tokens"]
    assert served_label(folder) == "great0"


def test_two_versions_are_kept_and_rollback_goes_there_and_back(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    for number, build in enumerate(builds, 1):
        assert deploy(build, Target(folder))["version"] == number
        assert served_label(folder) == f"great{number - 1}"
    assert sorted(path.name for path in (folder / "reviews").iterdir()) == ["3", "4", "config.pbtxt"]
    for label, version in [("great2", 3), ("great3", 4), ("great2", 3)]:
        assert rollback(Target(folder))["version"] == version
        assert served_label(folder) == label
    # What was rolled back from is what the next rollout keeps beside itself and the live one: nothing but the live one.
    assert deploy(builds[0], Target(folder)) == {"model": "reviews", "version": 5, "previous": 3, "check": None}
    assert rollback(Target(folder))["version"] == 3


def test_the_same_repository_again_changes_nothing(tmp_path: Path, builds: list[Path]) -> None:
    folder, said = tmp_path / "models", list[str]()
    deploy(builds[0], Target(folder))
    deploy(builds[1], Target(folder))
    before = sorted(folder.rglob("*"))
    (builds[1] / "reviews" / "1" / "__pycache__").mkdir()  # a server ran on it
    (builds[1] / "reviews" / "1" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert deploy(builds[1], Target(folder), say=said.append)["version"] == 2
    assert any("already" in line for line in said)
    assert sorted(folder.rglob("*")) == before


def test_two_models_share_a_folder_and_roll_alone(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    for bias in (0.0, 1.0):
        deploy(tiny_repository(tmp_path / f"other{bias}", "other", bias=bias), Target(folder))
    deploy(builds[0], Target(folder))
    deploy(builds[1], Target(folder))
    with pytest.raises(RecipeError, match="other, reviews"):
        rollback(Target(folder))
    with pytest.raises(RecipeError, match="nobody was not deployed"):
        rollback(Target(folder), "nobody")
    rollback(Target(folder), "reviews")
    assert served_label(folder) == "great0"
    assert live_number(Place(folder, "other")) == 2


def test_a_token_model_that_others_call_stays_where_it_is(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    shutil.copytree(builds[0], folder)
    shutil.copytree(folder / "reviews", folder / "second")
    config = folder / "second" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "reviews"', 'name: "second"'))
    deploy(builds[1], Target(folder))
    assert "reviews_tokens" in models(folder)
    assert served_label(folder) == "great1"


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """End this process as SIGKILL would before its ``step``-th rename or new folder."""
    count = itertools.count(1)

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if next(count) == step:
                os._exit(9)
            return change(*args, **kwargs)

        return wrapper

    for name in ("rename", "replace", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    yield


def survives(step: int, command: Callable[[], Any]) -> bool:
    """Run ``command`` in a child process that dies at ``step``; whether it got to its end."""
    child = os.fork()
    if child == 0:
        try:
            with killed_at(step):
                command()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


@pytest.mark.parametrize("start", kept(["empty", "by hand", "third"], ["third"]))
def test_a_deploy_killed_at_any_step_leaves_a_repository_and_goes_on(
    tmp_path: Path, builds: list[Path], start: str
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    if start == "by hand":
        shutil.copytree(builds[0], base, dirs_exist_ok=True)
    for build in [builds[2], builds[0]] if start == "third" else []:
        deploy(build, Target(base))
    seen = set()
    folder = tmp_path / "models"
    for step in itertools.count(1):
        shutil.copytree(base, folder)
        done = survives(step, lambda: deploy(builds[1], Target(folder)))
        live = served_label(folder) if models(folder) and (folder / "reviews").is_dir() else ""
        assert live in ("great1", "" if start == "empty" else "great0")
        seen.add(live)
        if start == "empty" and not live:
            assert not [f for f in inspect_repository(folder) if f.severity == "error" and f.path != "./"]
        deploy(builds[1], Target(folder))
        assert served_label(folder) == "great1"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "models"]
        assert len(models(folder)) == 3
        if start != "empty":
            rollback(Target(folder))
            assert served_label(folder) == "great0"
        shutil.rmtree(folder)
        if done:
            break
    assert len(seen) == 2, "no kill before the switch, or none after"
    assert step > 10


def test_a_rollback_killed_at_any_step_leaves_a_repository_and_goes_on(tmp_path: Path, builds: list[Path]) -> None:
    base = tmp_path / "base"
    deploy(builds[0], Target(base))
    deploy(builds[1], Target(base))
    seen = set()
    folder = tmp_path / "models"
    for step in itertools.count(1):
        shutil.copytree(base, folder)
        done = survives(step, lambda: rollback(Target(folder)))
        live = served_label(folder)
        seen.add(live)
        # Whoever was cut off after the switch would be rolling back a second time: so the other one is live.
        rollback(Target(folder))
        assert {live, served_label(folder)} == {"great0", "great1"}
        assert len(models(folder)) == 3
        deploy(builds[2], Target(folder))
        assert served_label(folder) == "great2"
        shutil.rmtree(folder)
        if done:
            break
    assert seen == {"great0", "great1"}
    assert step > 4


def test_what_cannot_be_deployed_is_told_and_nothing_changes(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    deploy(builds[0], Target(folder))
    before = sorted(folder.rglob("*"))
    broken = tmp_path / "broken"
    shutil.copytree(builds[1], broken)
    (broken / "reviews_tokens" / "1" / "model.onnx").unlink()
    two = tmp_path / "two"
    shutil.copytree(builds[1], two)
    tiny_repository(tmp_path / "more", "more")
    shutil.copytree(tmp_path / "more", two, dirs_exist_ok=True)
    cases: list[tuple[Callable[[], Any], type[LwcError], str]] = [
        (lambda: deploy(broken, Target(folder)), ModelError, "no such file"),
        (lambda: deploy(two, Target(folder)), RecipeError, "more, reviews"),
        (lambda: deploy(folder / "reviews", Target(folder)), LwcError, "reviews"),
        (lambda: deploy(folder, Target(folder)), RecipeError, "is inside"),
        (lambda: deploy(builds[1], Target(folder), limits=Limits(min_accuracy=0.5)), RecipeError, "needs texts"),
        (lambda: deploy(builds[1], Target(folder), samples=tmp_path / "s.csv"), RecipeError, "need a server"),
        (lambda: rollback(Target(folder)), RecipeError, "no version to go back to"),
        (lambda: rollback(Target(tmp_path / "two")), RecipeError, "none"),
    ]
    for command, kind, words in cases:
        with pytest.raises(kind, match=words):
            command()
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_is_not_lwcs_is_never_overwritten(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    deploy(builds[0], Target(folder))
    mine = folder / "reviews_tokens-v2"
    shutil.copytree(folder / "reviews_tokens-v1", mine)
    config = mine / "config.pbtxt"
    config.write_text(config.read_text().replace("reviews_tokens-v1", mine.name))
    with pytest.raises(RecipeError, match="is there already"):
        deploy(builds[1], Target(folder))
    assert mine.is_dir()
    assert served_label(folder) == "great0"


def test_names_of_a_state_file_cannot_lead_out_of_the_folder(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    for build in builds[:2]:
        deploy(build, Target(folder))
    state = folder / ".lwc-rollout-reviews.json"
    content = json.loads(state.read_text())
    outside = tmp_path / "precious"
    outside.mkdir()
    for name in ("../precious", str(outside), "..", ".hidden", "a/b"):
        content["adding"] = {"number": 9, "models": [name], "digest": ""}
        state.write_text(json.dumps(content))
        with pytest.raises(RecipeError, match="no folder of a model"):
            rollback(Target(folder))
    (folder / "link").symlink_to(outside)
    content["adding"]["models"] = ["link"]
    state.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match="no folder of a model"):
        rollback(Target(folder))
    assert outside.is_dir()
    (folder / "link").unlink()
    assert served_label(folder) == "great1"


def test_a_folder_changed_by_hand_and_a_second_rollout_are_told(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    deploy(builds[0], Target(folder))
    with locked(folder), pytest.raises(RecipeError, match="another rollout"):
        deploy(builds[1], Target(folder))
    shutil.rmtree(folder / "reviews")
    shutil.copytree(builds[2] / "reviews", folder / "reviews")
    (folder / "reviews" / "1").rename(folder / "reviews" / "7")
    with pytest.raises(RecipeError, match="version 7 is live"):
        deploy(builds[1], Target(folder))


def test_limits_name_what_is_past_them() -> None:
    measured = {
        "n": 10, "failed": 0, "accuracy": 0.8, "agreement": 0.7, "latency_ms": 9.0, "live_latency_ms": 6.0,
        "latency_ratio": 1.5,
    }  # fmt: skip
    assert faults(measured, Limits(0.7, 0.8, 1.5)) == []
    found = faults(measured, Limits(0.71, 0.81, 1.49))
    assert len(found) == 3
    assert all(words in "\n".join(found) for words in ("accuracy 0.8000", "0.7000 of the answers", "1.50×"))
    assert "1 of 10 texts failed: oops" in faults({**measured, "failed": 1, "failure": "oops"}, Limits())[0]


def test_a_renamed_recipe_is_a_version_of_the_live_model(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    renamed = tiny_repository(tmp_path / "next", "next_recipe", labels=("greatest", "other"))
    deploy(builds[0], Target(folder))
    assert deploy(renamed, Target(folder), name="reviews")["version"] == 2
    assert models(folder) == ["reviews", "reviews-v2", "reviews_tokens-v2"]
    assert served_label(folder) == "greatest"
    assert "next" not in "".join(path.read_text() for path in folder.rglob("config.pbtxt"))
    assert deploy(renamed, Target(folder), name="reviews")["version"] == 2, "these files are live"
    assert rollback(Target(folder)) == {"model": "reviews", "version": 1, "previous": 2}
    assert served_label(folder) == "great0"
    assert rollback(Target(folder))["version"] == 2
    # Under its own name, or a third one, it is another model.
    assert deploy(renamed, Target(folder))["model"] == "next_recipe"
    assert deploy(renamed, Target(folder), name="third")["version"] == 1
    assert not [str(one) for one in inspect_repository(folder) if one.severity == "error"]


def other_inputs(config: str) -> str:
    return config.replace('name: "text"\n', 'name: "history"\n')


def more_texts(config: str) -> str:
    return config.replace(
        'name: "text"\n  data_type: TYPE_STRING\n  dims: 1', 'name: "text"\n  data_type: TYPE_STRING\n  dims: 2'
    )


def another_input(config: str) -> str:
    return config + 'input { name: "lang" data_type: TYPE_STRING dims: 1 }\n'


def another_output(config: str) -> str:
    return config.replace('name: "label"\n', 'name: "class"\n')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_inputs, r"it takes text BYTES \[1\], the new one does not"),
        (more_texts, r"it takes text BYTES \[1\], the new one text BYTES \[2\]"),
        (another_input, "it can be asked without lang, the new one cannot"),
        (another_output, "it answers with label BYTES, the new one with class, scores"),
    ],
)
@pytest.mark.parametrize("name", [None, "reviews"])
def test_a_model_whose_clients_would_fail_is_refused(
    tmp_path: Path, builds: list[Path], change: Callable[[str], str], words: str, name: str | None
) -> None:
    folder, new = tmp_path / "models", tmp_path / "new"
    deploy(builds[0], Target(folder))
    before = sorted(folder.rglob("*"))
    tiny_repository(new, "reviews" if name is None else "next")
    config = next(path for path in new.glob("*/config.pbtxt") if "_tokens" not in str(path))
    written = change(config.read_text())
    assert written != config.read_text()
    config.write_text(written)
    with pytest.raises(RecipeError, match=words) as caught:
        deploy(new, Target(folder), name=name)
    assert "--as NAME" in caught.value.hint
    assert sorted(folder.rglob("*")) == before


def test_an_input_may_be_added_if_it_is_optional_but_not_taken_away(tmp_path: Path, builds: list[Path]) -> None:
    folder = tmp_path / "models"
    deploy(builds[0], Target(folder))
    titled = tiny_repository(tmp_path / "titled", labels=("titled", "other"), fields=("title", "body"))
    deploy(titled, Target(folder))
    assert served_label(folder) == "titled"
    assert [(one.name, one.optional) for one in read_configs(folder)["reviews"].input] == [
        ("text", False), ("title", True),
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"it takes title BYTES \[1\], the new one does not"):
        deploy(builds[1], Target(folder))
    assert rollback(Target(folder))["version"] == 1  # what was live before may be live again


@pytest.mark.parametrize("name", ["reviews-v1", "reviews_tokens-v1"])
def test_the_name_of_a_part_of_a_version_is_taken(tmp_path: Path, builds: list[Path], name: str) -> None:
    folder = tmp_path / "models"
    deploy(builds[0], Target(folder))
    with pytest.raises(RecipeError, match=f"{name} is a part of reviews"):
        deploy(builds[1], Target(folder), name=name)
    with pytest.raises(RecipeError, match="no folder of a model"):
        deploy(builds[1], Target(folder), name="../x")
    assert served_label(folder) == "great0"
