"""The same work on a GPU as on the CPU: scores, search, training, recovery, evaluation. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import MEASURING, SCORERS, config_for, data
from test_train_and_recover import base, quiet, recipe_of, trained  # noqa: F401 - base is a fixture
from tiny_models import tiny

from lwc.data.splits import load_split
from lwc.models.batches import batches, encode
from lwc.models.families import family_of
from lwc.models.forward.predict import predict
from lwc.models.forward.prefix import outcomes
from lwc.models.load import load_model, load_tokenizer, save_checkpoint
from lwc.models.placement import beside, device_of, placed
from lwc.models.surgery import remove_blocks
from lwc.tasks.task import Checkpoint
from lwc.tasks.text import model_logits
from lwc.training.fine_tuning import train_base
from lwc.training.recovery import recover, recoverer_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
@pytest.mark.parametrize("method", MEASURING)
def test_scores_are_those_of_the_cpu(method: str, model_type: str) -> None:
    model = tiny(model_type)
    rows = data(model)
    scorer, family, config = SCORERS[method], family_of(model), config_for(method)
    wanted = scorer(model, family, rows, config).scores
    found = scorer(placed(model), family, beside(model, rows), config).scores
    assert device_of(model).type == "cuda"
    largest = max(map(abs, wanted))
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3 * largest)


def test_losses_of_bypassed_sets_are_those_of_the_cpu() -> None:
    model = tiny("bert")
    rows = data(model)
    sets = [frozenset(one) for one in ([], [0], [1, 2], [0, 3], [1, 2, 3])]
    wanted = outcomes(model, family_of(model), rows, sets)
    found = outcomes(placed(model), family_of(model), beside(model, rows), sets)
    assert {one: found[one].loss for one in sets} == pytest.approx({one: wanted[one].loss for one in sets}, rel=1e-4)


def logits_on_cpu(folder: Path, texts: list[str], length: int) -> Any:
    rows = encode(load_tokenizer(folder), texts, length)
    return predict(load_model(folder), batches(rows, np.zeros(len(texts)), 8, length_bucketed=True, seed=None))


def test_train_recover_and_evaluate(base: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    folder, out = base
    texts = load_split(folder, "validation")
    found, _ = model_logits(out / "model", texts, recipe_of())
    assert found == pytest.approx(logits_on_cpu(out / "model", texts.texts, 16), abs=1e-3)

    teacher = load_model(out / "model")
    save_checkpoint(
        remove_blocks(teacher, family_of(teacher), [1, 2]), load_tokenizer(out / "model"), tmp_path / "cut" / "model"
    )
    stages = {"data": folder, "train": out, "remove": tmp_path / "cut"}
    recover(recipe_of(), [0, 3], stages, tmp_path / "healed", tmp_path / "scratch", quiet)
    labels = np.asarray(texts.labels)
    healed, _ = model_logits(tmp_path / "healed" / "model", texts, recipe_of())
    assert float((healed.argmax(axis=1) == labels).mean()) > 0.9


def test_a_short_recovery_stays_on_the_gpu(base: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    folder, out = base
    model, tokenizer = load_model(out / "model"), load_tokenizer(out / "model")
    recoverer = recoverer_of(recipe_of(), folder, Checkpoint(model, tokenizer), quiet)
    assert device_of(model).type == "cuda"
    short = recoverer.after({1, 2, 3}, 2, tmp_path / "a", quiet)
    longer = recoverer.after({1, 2, 3}, 48, tmp_path / "b", quiet)
    assert 0 < longer["distance"] < short["distance"]


def test_interrupted_training_goes_on_from_its_checkpoint(base: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    folder, whole = base

    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("step 14/"):
            raise Stop

    with pytest.raises(Stop):
        train_base(recipe_of(), folder, tmp_path / "out", tmp_path / "scratch", stop)
    said: list[str] = []
    train_base(recipe_of(), folder, tmp_path / "out", tmp_path / "scratch", said.append)
    assert said[0] == "resuming at step 12/24"
    wanted, found = (load_model(one / "model").state_dict() for one in (whole, tmp_path / "out"))
    # Sums on a GPU come in no fixed order.
    assert all(torch.allclose(value, found[name], atol=1e-3) for name, value in wanted.items())


def test_bf16_is_what_a_gpu_trains_in_by_itself(base: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    folder, _ = base
    recipe = recipe_of()
    free = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": "auto"})})
    out = trained(tmp_path, folder, free)
    texts = load_split(folder, "validation")
    logits, _ = model_logits(out / "model", texts, recipe_of())
    assert float((logits.argmax(axis=1) == np.asarray(texts.labels)).mean()) > 0.9
    one, other = (load_model(place / "model").state_dict() for place in (base[1], out))
    assert any(not torch.equal(value, other[name]) for name, value in one.items()), "trained in fp32 all the same"
