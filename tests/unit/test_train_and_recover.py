"""The train, remove and recover stages from a data folder to checkpoints, and killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lwc.core.errors import ModelError, TargetError
from lwc.models.attention import fused_attention
from lwc.models.families import family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.load import load_classifier, load_tokenizer, save_checkpoint
from lwc.models.surgery import remove_blocks
from lwc.pipeline.stage import StageContext
from lwc.pipeline.stages import STAGES
from lwc.recipe import Recipe, Target
from lwc.tasks.task import Checkpoint
from lwc.training.fine_tuning import train_base
from lwc.training.recovery import recover, recoverer_of

NAMES = ["other", "great"]
WORDS = (["bad", "broken", "awful", "refund", "never"], ["good", "love", "great", "works", "again"])


def data_folder(root: Path) -> Path:
    root.mkdir()
    random = np.random.default_rng(0)
    for name, rows in (("train", 64), ("validation", 24)):
        labels = np.arange(rows) % 2
        texts = [" ".join(random.choice(WORDS[label], size=random.integers(2, 9))) for label in labels]
        table = pd.DataFrame({"id": np.arange(rows), "text": texts, "label": labels})
        table.to_parquet(root / f"{name}.parquet")
    (root / "labels.json").write_text(json.dumps(NAMES))
    return root


def recipe_of(model: dict[str, Any] | None = None, **train: Any) -> Recipe:
    loop = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "checkpoint_every": 2, "patience": 9, **train}
    small = {"kind": "config", "blocks": 4, "hidden": 16, "heads": 2, "vocab_size": 200, "max_length": 16}
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "tiny",
            "model": model or small,
            "train": {**loop, "precision": "fp32"},
            "recover": {**loop, "precision": "fp32"},
            "target": {"ratio": 2, "of": "blocks"},
        }
    )


def quiet(line: str) -> None:
    """Progress nobody watches."""


def trained(root: Path, data: Path, recipe: Recipe) -> Path:
    train_base(recipe, data, root / "out", root / "scratch", quiet)
    return root / "out"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("base")
    data = data_folder(root / "data")
    return data, trained(root, data, recipe_of())


def test_a_target_out_of_reach_is_told_before_the_training(base: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []
    recipe = recipe_of().model_copy(update={"target": Target(ratio=100, of="params")})
    train = next(stage for stage in STAGES if stage.name == "train")
    with pytest.raises(TargetError, match="100x of params cannot be reached"):
        train.function(StageContext(recipe, {"data": base[0]}, tmp_path, tmp_path / "scratch", said.append))
    assert said == []


def test_train_leaves_a_whole_checkpoint(base: tuple[Path, Path]) -> None:
    _, out = base
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["validation"]["macro_f1"] > 0.9
    assert metrics["n_train"] == 64
    model = AutoModelForSequenceClassification.from_pretrained(out / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    with torch.inference_mode():
        logits = model(**tokenizer(["great works love", "awful broken"], padding=True, return_tensors="pt")).logits
    assert [model.config.id2label[int(i)] for i in logits.argmax(-1)] == ["great", "other"]


@pytest.mark.parametrize(("hidden_weight", "augment"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5)])
def test_recovery_brings_the_cut_model_back(
    base: tuple[Path, Path], tmp_path: Path, hidden_weight: float, augment: float
) -> None:
    data, out = base
    teacher = load_classifier(out / "model")
    kept, removed = [0, 3], [1, 2]
    save_checkpoint(
        remove_blocks(teacher, family_of(teacher), removed), load_tokenizer(out / "model"), tmp_path / "cut" / "model"
    )
    recipe = recipe_of()
    changes = {"hidden_weight": hidden_weight, "augment": augment}
    recipe = recipe.model_copy(update={"recover": recipe.recover.model_copy(update=changes)})

    def go(name: str) -> dict[str, torch.Tensor]:
        stages = {"data": data, "train": out, "remove": tmp_path / "cut"}
        recover(recipe, kept, stages, tmp_path / name, tmp_path / f"{name}-scratch", quiet)
        return load_file(tmp_path / name / "model" / "model.safetensors")

    one, two = go("one"), go("two")
    assert all(torch.equal(value, two[name]) for name, value in one.items()), "same seed, same weights"
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert metrics["validation"]["macro_f1"] > 0.9
    assert metrics["matched_teacher_blocks"] == [2, 3]
    student = load_classifier(tmp_path / "one" / "model")
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label == {0: "other", 1: "great"}
    before = load_file(tmp_path / "cut" / "model" / "model.safetensors")
    changed = {name for name, value in one.items() if not torch.equal(value, before[name])}
    assert changed
    assert not any("tok_embeddings" in name for name in changed), "embeddings come from the teacher and stay"


def test_a_few_steps_of_recovery_tell_the_loss_of_a_cut_model(base: tuple[Path, Path], tmp_path: Path) -> None:
    data, out = base
    model, tokenizer = load_classifier(out / "model"), load_tokenizer(out / "model")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recoverer = recoverer_of(recipe_of(), data, Checkpoint(model, tokenizer), quiet)
    short = recoverer.after({1, 2, 3}, 2, tmp_path / "a", quiet)
    longer = recoverer.after({1, 2, 3}, 48, tmp_path / "b", quiet)
    assert 0 < longer["distance"] < short["distance"], "recovery shortens the way to the teacher's answers"
    left = [path.name for path in (tmp_path / "b").rglob("*") if path.is_file()]
    assert left == ["healed.json"], "48 steps are six epochs: their stored answers are gone"
    student = remove_blocks(model, family_of(model), {1, 2, 3})
    recoverer.run(student, [0], recoverer.in_steps(48), tmp_path / "c", quiet)
    with fused_attention(student):
        assert longer["loss"] == loss_and_accuracy(student, recoverer.validation)[0]
    assert recoverer.after({1, 2, 3}, 48, tmp_path / "b", quiet) == longer
    after = model.to("cpu").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "the teacher stays"


def test_pinned_weights_are_checked(base: tuple[Path, Path], tmp_path: Path) -> None:
    data, out = base
    wrong = {"kind": "pretrained", "source": str(out / "model"), "sha256": "0" * 64, "max_length": 16}
    with pytest.raises(ModelError, match="SHA-256"):
        trained(tmp_path, data, recipe_of(wrong))


def test_fine_tuning_from_a_checkpoint_is_seeded(base: tuple[Path, Path], tmp_path: Path) -> None:
    data, out = base
    source = {"kind": "pretrained", "source": str(out / "model"), "max_length": 16}
    weights = [
        load_file(trained(tmp_path / str(turn), data, recipe_of(source, epochs=0.5)) / "model" / "model.safetensors")
        for turn in range(2)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


KILLED = """
import os, signal, sys
from pathlib import Path
from lwc.training.fine_tuning import train_base
from lwc.recipe import Recipe, Target
from lwc.pipeline.stage import StageContext
from lwc.pipeline.stages import STAGES

def progress(line):
    if line.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

root = Path(sys.argv[1])
recipe = Recipe.model_validate_json(Path(sys.argv[2]).read_text())
train_base(recipe, root / "data", root / "out", root / "scratch", progress)
"""


def test_killed_in_training_ends_in_the_same_result(base: tuple[Path, Path], tmp_path: Path) -> None:
    data, whole = base
    (tmp_path / "data").symlink_to(data)
    (tmp_path / "recipe.json").write_text(recipe_of().model_dump_json())
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(tmp_path / "recipe.json"), "step 14/"]
    died = subprocess.run(arguments, check=False, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not (tmp_path / "out").exists()
    out = trained(tmp_path, data, recipe_of())
    assert json.loads((out / "metrics.json").read_text())["resumed_from"] == 12
    expected = load_file(whole / "model" / "model.safetensors")
    found = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
