"""`lwc score`, `cut`, `export` and `package` on a checkpoint without a recipe, and on a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import Outcome, faults, run
from tiny_texts import LABELS, TEXTS, classifier
from transformers import AutoModelForSequenceClassification

import lwc
from lwc.api.export import export_run
from lwc.core.store import Store, key_of, write_json
from lwc.export.onnx import export_onnx
from lwc.models.load import save_checkpoint
from lwc.pipeline.export_plan import FinishedRun
from lwc.recipe import Recipe

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save_checkpoint(*classifier(), place)
    return place


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    pd.DataFrame({"id": range(len(TEXTS)), "review": TEXTS, "verdict": LABELS}).to_csv(path, index=False)
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    # The command line switches it off before transformers is imported, which here is too late.
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)

    def call(*arguments: object) -> Outcome:
        return run([str(one) for one in arguments], monkeypatch)

    return call


def test_the_version_names_the_libraries_that_figures_depend_on(command: Command) -> None:
    told = command("--version").out
    assert told.startswith(f"lwc {lwc.__version__} (torch ")
    assert "transformers " in told
    assert "onnxruntime " in told


def test_a_checkpoint_is_scored_on_a_file(command: Command, folder: Path, reviews: Path, tmp_path: Path) -> None:
    done = command(
        "score", folder, "--texts", reviews, "--labels", "verdict", "--methods", "ablation,taylor", "--json",
        "--plot", tmp_path / "blocks.png",
    )  # fmt: skip
    assert done.code == 0, done.err
    expected = lwc.score(folder, None, TEXTS, LABELS, methods=["ablation", "taylor"])
    content = json.loads(done.out)
    assert content["fused"] == expected.content["fused"]
    assert {name: one["scores"] for name, one in content["methods"].items()} == expected.scores
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["texts.txt", "texts.jsonl", "texts.parquet"])
def test_texts_alone_come_in_any_format(command: Command, folder: Path, tmp_path: Path, name: str) -> None:
    frame, path = pd.DataFrame({"text": [*TEXTS[:8], ""]}), tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    elif name.endswith("jsonl"):
        frame.to_json(path, orient="records", lines=True)
    else:
        path.write_text("\n".join(frame["text"]) + "\n\n")
    done = command("score", folder, "--texts", path, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["fused"] == lwc.score(folder, None, TEXTS[:8]).content["fused"]


def test_blocks_are_cut_and_the_result_is_a_whole_checkpoint(command: Command, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "smaller"
    done = command("cut", folder, "--remove", "2,1", "--out", out, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["removed"], told["kept"], told["tokenizer"]) == ([1, 2], [0, 3], True)
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert told["params"]["after"] == sum(weight.numel() for weight in model.parameters())
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    again = command("cut", folder, "--remove", "1", "--out", out)
    assert again.code == 2
    assert f"{out} exists" in again.err


def test_a_checkpoint_becomes_a_repository_in_two_commands(command: Command, folder: Path, tmp_path: Path) -> None:
    done = command("export", folder, "--to", "onnx", "--out", tmp_path / "onnx")
    assert done.code == 0, done.err
    assert "pytorch" in done.err
    done = command("package", tmp_path / "onnx", "--name", "reviews", "--out", tmp_path / "models")
    assert done.code == 0, done.err
    assert (tmp_path / "models" / "reviews" / "config.pbtxt").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "MODEL"], "add --texts FILE"),
        (["score", "MODEL", "--texts", "absent.csv"], "no file at absent.csv"),
        (["score", "MODEL", "--texts", "CSV", "--labels", "stars"], "no column for labels: 'stars'"),
        (["score", "MODEL", "--texts", "CSV", "--text-column", "body"], "no column for text: 'body'"),
        (["score", "MODEL", "--texts", "CSV", "--methods", "ablation"], "ablation: needs labels"),
        (["score", "MODEL", "--set", "seed=1"], "--set changes a recipe"),
        (["score", "r.yaml", "--texts", "CSV"], "--texts with a recipe"),
        (["score", "nowhere/at/all", "--texts", "CSV"], "no such folder"),
        (["cut", "MODEL", "--remove", "one", "--out", "x"], "not numbers of blocks"),
        (["cut", "MODEL", "--remove", "7", "--out", "x"], "no blocks [7]"),
        (["cut", "MODEL", "--remove", "0,1,2,3", "--out", "x"], "every block would be removed"),
        (["export", "MODEL", "--to", "onnx"], "add --out DIR"),
        (["export", "MODEL", "--to", "onnx", "--out", "x", "--int8"], "int8 is checked on texts"),
        (["export", "MODEL", "--to", "onnx", "--out", "x", "--built"], "--precision and --built are for TensorRT"),
        (["export", "hub/id", "--to", "tensorrt"], "plans are built from a finished run"),
        (["export", "MODEL", "--to", "tensorrt", "--int8"], "--int8, --texts, --tokenizer"),
        (["package", "CSV", "--name", "x"], "one ONNX graph is needed"),
        (["package", "MODEL", "--name", "a b"], "name is 'a b'"),
    ],
)
def test_wrong_commands_say_what_to_do(
    command: Command, folder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = command(*(str({"MODEL": folder, "CSV": reviews}.get(one, one)) for one in arguments))
    assert done.code == 2, done.err
    assert faults(done) == []
    assert says in done.err
    assert not (tmp_path / "x").exists()


def test_a_finished_run_is_exported_with_its_own_figures(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = classifier()
    export = tmp_path / "export"
    (export / "compressed").mkdir(parents=True)
    export_onnx(model, tokenizer, export / "compressed" / "model.onnx")
    shapes = [{"batch": 1, "length": 8, "served_ms": 1.0}]
    figures: dict[str, Any] = {
        "parity": {"compressed": {"max_abs_diff": 1e-6, "passed": True}},
        "served": {"precision": "fp32", "why": "int8 was slower", "latency": {"shapes": shapes}},
    }
    write_json(export / "export.json", figures)
    recipe = Recipe.model_validate(
        {"schema_version": 1, "name": "small", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"}}
    )
    store = Store(tmp_path / ".store")
    with store.build("recover", key_of({})) as (out, _):
        save_checkpoint(model, tokenizer, out / "model")
        recover = store.commit("recover", key_of({}), {}, 1.0).path
    done = FinishedRun(recipe, tmp_path, {"export": export, "recover": recover}, "small", True)
    found = export_run(done, tmp_path / "onnx")
    assert (found.precision, found.why, found.task) == ("fp32", "int8 was slower", "classification")
    assert found.fields == ("body",)
    assert found.path.is_file()
    assert not list(found.folder.glob("*.safetensors"))
    assert (lwc.package(found, "small", tmp_path / "models") / "small" / "labels.txt").read_text() == "bad\ngood\n"
