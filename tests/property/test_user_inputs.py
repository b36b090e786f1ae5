"""Whatever a user's files contain, a command ends with a documented exit code and says what is wrong and what to do.

2,000 damaged inputs under ``-m grid``; the default run takes the first of each kind. A case is drawn from its name
alone: ``pytest -n0 -m "grid or not grid" "tests/property/test_user_inputs.py::test_no_input_is_a_bug[table-17]"``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import command_line
import pytest
import typer
import yaml
from damaged_repository import sound_repository
from fuzzed import KINDS
from fuzzed_sound import SMALL, Sound
from fuzzed_tables import ROWS
from grid import kept
from planted_runs import finished_runs
from tiny_llama import random_llama
from tiny_models import tiny
from tiny_repository import tiny_repository

from lwc.models.load import save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.serving.loadtest.endpoint import Endpoint
from lwc.tasks.next_item.wire import ItemWire
from lwc.tasks.text_wire import TextWire

EACH, DEFAULT = 400, 15
CASES = [(kind, number) for kind in KINDS for number in range(EACH)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, repository_root: Path) -> Sound:
    place = tmp_path_factory.mktemp("sound")
    texts = [row["text"] for row in ROWS]
    tokenizer = train_wordpiece(texts, 200, 16)
    for name, blocks in (("bert", 2), ("modernbert", 2)):
        model = tiny(name, blocks=blocks, pad_token_id=0, vocab_size=len(tokenizer), num_labels=2)
        save_checkpoint(model, tokenizer, place / name)
    tokenizer.eos_token = "[SEP]"
    llama = random_llama()
    llama.resize_token_embeddings(len(tokenizer))
    save_checkpoint(llama, tokenizer, place / "llama")
    (place / "rows.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS))
    return Sound(
        recipes=sorted((repository_root / "recipes").glob("*.yaml")),
        checkpoints={"bert": place / "bert", "modernbert": place / "modernbert", "causal_lm": place / "llama"},
        repositories=[sound_repository(place / "mixed"), tiny_repository(place / "text")],
        runs=finished_runs(place / "finished"),
        data=place,
    )


@contextmanager
def _in_threads(workers: int) -> Iterator[Executor]:
    """Starting a process takes longer than reading a tiny file."""
    with ThreadPoolExecutor(workers) as pool:
        yield pool


def _connected(url: str, protocol: str, model: str, *_: object) -> Endpoint:
    return Endpoint("127.0.0.1:1", "http", model, ItemWire() if model == "history" else TextWire())


def _sent(*_: object) -> None:
    raise typer.Exit(0)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No progress bars, no worker processes, and no server: samples are read, but not sent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)  # as `TQDM_DISABLE` does in a new process
    monkeypatch.setattr("lwc.data.ingest.run.workers_pool", _in_threads)
    monkeypatch.setattr("lwc.serving.loadtest.endpoint.connect", _connected)
    monkeypatch.setattr("lwc.cli.loadtest._run", _sent)
    monkeypatch.setattr("lwc.cli.loadtest._find_rates", _sent)
    return tmp_path


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "number"), kept(CASES, [case for case in CASES if case[1] < DEFAULT]))
def test_no_input_is_a_bug(kind: str, number: int, sound: Sound, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = KINDS[kind](random.Random(f"{kind}-{number}"), alone, sound)
    for command in commands:
        outcome = command_line.run(command, monkeypatch)
        found = command_line.faults(outcome)
        assert not found, f"{found}: lwc {' '.join(command)}\n{outcome.err}"


def test_the_sound_inputs_pass(sound: Sound, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every case would end at the first check, and the damage would never be met."""
    recipes: dict[str, dict[str, Any]] = {"small": SMALL}
    for name, folder in sound.checkpoints.items():
        task = {"task": {"kind": name}} if name == "causal_lm" else {}
        labels = {"scheme": "none"} if task else {"scheme": "column", "names": ["bad", "good"]}
        recipes[name] = {**SMALL, "model": {"kind": "pretrained", "source": str(folder), "max_length": 16}, **task,
                         "data": {**SMALL["data"], "labels": labels}}  # fmt: skip
    (alone / "rows.csv").write_bytes((sound.data / "rows.csv").read_bytes())
    commands = [["repo", "check", str(one)] for one in sound.repositories]
    commands.append(["compare", *(str(path.parent) for path in sorted(sound.runs.glob("*/report.json")))])
    commands.append(["loadtest", "rows.csv", "--model", "text"])
    for name, recipe in recipes.items():
        (alone / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        commands.append(["validate", "--deep", "--until", "export", f"{name}.yaml"])
    for command in commands:
        outcome = command_line.run(command, monkeypatch)
        assert (outcome.code, command_line.faults(outcome)) == (0, []), f"lwc {' '.join(command)}\n{outcome.err}"
