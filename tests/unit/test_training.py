"""The training loop: determinism, exact resume, damaged checkpoints, early stopping."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged import judged
from taught import live_teacher, recovery_loss
from tiny_models import learnable, tiny
from torch.backends import cuda

from lwc.core import distributed
from lwc.core.errors import Diverged, LwcError
from lwc.core.progress import Step
from lwc.models.attention import fused_attention
from lwc.models.batches import Batch, batches
from lwc.models.families import family_of
from lwc.models.forward.predict import predict
from lwc.models.losses import distillation_loss, hidden_loss, label_loss
from lwc.models.surgery import remove_blocks
from lwc.recipe import Optimization, Recovery
from lwc.tasks.task import Rows
from lwc.training import loop as training
from lwc.training.distillation import matched_blocks
from lwc.training.loop import Objective, TrainingResult, fit, learning_rate
from lwc.training.teacher import BlockOutputs

SETTINGS = Optimization(
    epochs=3, batch_size=8, learning_rate=5e-3, checkpoint_every=3,
    patience=9, evaluations_per_epoch=2, precision="fp32",
)  # fmt: skip


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    return label_loss(model(**batch.inputs).logits, batch.labels)


def run(
    folder: Path,
    *,
    settings: Optimization = SETTINGS,
    seed: int = 3,
    loss: Callable[[Any, Batch], torch.Tensor] = loss_of,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Any, TrainingResult]:
    model = tiny("bert", blocks=2, num_labels=2)
    train, labels = learnable(48, 0)
    validation, validation_labels = learnable(24, 1)
    objective = Objective(Rows(train, labels), loss, judged(validation, validation_labels))
    result = fit(model, objective, settings, seed, folder, progress)
    return model, result


def same(one: Any, two: Any) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


class Stop(KeyboardInterrupt):
    """Ctrl-C at a chosen step."""


def interrupted_at(step: int) -> Callable[[Any, Batch], torch.Tensor]:
    done = 0

    def loss(model: Any, batch: Batch) -> torch.Tensor:
        nonlocal done
        if done == step:
            raise Stop
        done += 1
        return loss_of(model, batch)

    return loss


def test_training_uses_fused_attention_without_cudnn_and_puts_all_back() -> None:
    model = tiny("bert", blocks=1)
    before = cuda.cudnn_sdp_enabled()
    with fused_attention(model):
        assert model.config._attn_implementation == "sdpa"
        assert not cuda.cudnn_sdp_enabled(), "it builds a plan for every new shape of a batch"
    assert model.config._attn_implementation == "eager"
    assert cuda.cudnn_sdp_enabled() == before


def test_accelerate_may_ask_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert distributed.on_gpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # accelerate launch --cpu
    assert not distributed.on_gpu()


def test_a_score_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    model, (train, labels) = tiny("bert", blocks=2, num_labels=2), learnable(48, 0)
    with pytest.raises(Diverged, match="validation score became nan"):
        fit(model, Objective(Rows(train, labels), loss_of, lambda _: {"score": math.nan}), SETTINGS, 0, tmp_path, print)


def test_it_learns_and_says_how_far_it_is(tmp_path: Path) -> None:
    lines: list[str] = []
    # Dropout's draws would be another machine's.
    model, result = run(tmp_path, settings=SETTINGS.model_copy(update={"dropout": False}), progress=lines.append)
    assert result.steps == 18
    assert result.validation["macro_f1"] > 0.9
    assert not model.training
    last = lines[-2]
    assert isinstance(last, Step)
    assert (last.done, last.total) == (18, 18)
    assert re.fullmatch(r"step 18/18 · loss \d\.\d{3} · macro-F1 \d\.\d{3}", last)


def test_same_seed_same_weights(tmp_path: Path) -> None:
    one, _ = run(tmp_path / "a")
    two, _ = run(tmp_path / "b")
    three, _ = run(tmp_path / "c", seed=4)
    assert same(one, two)
    assert not same(one, three)


# 7 is in the middle of an epoch of 6 steps, and between checkpoints at 6 and 9.
@pytest.mark.parametrize(("step", "optimizer"), [(1, "adamw"), (7, "adamw"), (13, "adamw"), (7, "muon")])
def test_interrupted_run_resumes_to_the_same_result(tmp_path: Path, step: int, optimizer: str) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    whole, expected = run(tmp_path / "whole", settings=settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", settings=settings, loss=interrupted_at(step))
    resumed, result = run(tmp_path / "cut", settings=settings)
    assert result.resumed_from == step - step % 3
    assert same(whole, resumed)
    assert result.history == expected.history


def test_checkpoints_by_the_clock_resume_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_clock = SETTINGS.model_copy(update={"checkpoint_every": None})
    whole, _ = run(tmp_path / "whole", settings=by_clock)
    assert not list((tmp_path / "whole").glob("step-*"))  # done within a minute
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", settings=by_clock, loss=interrupted_at(7))
    resumed, result = run(tmp_path / "cut", settings=by_clock)
    assert result.resumed_from == 7
    assert same(whole, resumed)


def damage_weights(path: Path) -> None:
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


def damage_optimizer(path: Path) -> None:
    (path / "optimizer.safetensors").unlink()


def damage_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("{", encoding="utf-8")


def damage_state(path: Path) -> None:
    (path / "state.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize("damage", [damage_weights, damage_optimizer, damage_manifest, damage_state])
def test_damaged_checkpoint_falls_back_to_the_last_whole_one(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loss=interrupted_at(11))
    newest = sorted((tmp_path / "cut").glob("step-*"))[-1]
    assert newest.name == "step-00000009"
    damage(newest)
    with caplog.at_level(logging.WARNING):
        resumed, result = run(tmp_path / "cut")
    assert result.resumed_from == 6
    assert "step-00000009 is damaged" in caplog.text
    assert same(whole, resumed)


def test_all_checkpoints_damaged_starts_again_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loss=interrupted_at(7))
    for path in (tmp_path / "cut").glob("step-*"):
        damage_weights(path)
    with caplog.at_level(logging.WARNING):
        resumed, result = run(tmp_path / "cut")
    assert result.resumed_from == 0
    assert caplog.text.count("is damaged") == 2
    assert same(whole, resumed)


def test_half_written_checkpoint_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loss=interrupted_at(7))
    (tmp_path / "cut" / "part").mkdir()
    (tmp_path / "cut" / "part" / "model.safetensors").write_bytes(b"half")
    _, result = run(tmp_path / "cut")
    assert result.resumed_from == 6


def test_checkpoint_of_other_data_or_settings_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=interrupted_at(7))
    with caplog.at_level(logging.WARNING):
        _, result = run(tmp_path, settings=SETTINGS.model_copy(update={"learning_rate": 1e-3}))
    assert result.resumed_from == 0
    assert "other data or settings" in caplog.text


def test_no_pickle_in_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=interrupted_at(7))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_early_stopping_restores_the_best_weights(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 30.0, "patience": 2, "evaluations_per_epoch": 1})
    model, result = run(tmp_path, settings=settings)
    assert result.steps < 30 * 6
    assert result.validation["macro_f1"] == max(entry["macro_f1"] for entry in result.history)
    assert result.steps == result.best_step + 2 * 6
    validation, labels = learnable(24, 1)
    predicted = predict(model, batches(validation, labels, 5, length_bucketed=False, seed=None)).argmax(1)
    chosen = next(entry for entry in result.history if entry["step"] == result.best_step)
    assert chosen["accuracy"] == (predicted == labels).mean()


def test_averaged_weights_are_the_recurrence_of_the_steps(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def go(average: float, watch: bool) -> Any:
        model = tiny("bert", blocks=2, num_labels=2)
        train, labels = learnable(48, 0)

        def loss(current: Any, batch: Batch) -> torch.Tensor:
            if watch:
                seen.append({name: value.detach().clone() for name, value in current.state_dict().items()})
            return loss_of(current, batch)

        settings = SETTINGS.model_copy(update={"epochs": 0.5})
        folder = tmp_path / f"{average}-{watch}"
        objective = Objective(Rows(train, labels), loss, judged(train, labels), average=average)
        fit(model, objective, settings, 3, folder, lambda _: None)
        return model

    last = go(0.0, True)  # the same steps, unaveraged: states before each step, and the last
    steps = [*seen[1:], last.state_dict()]
    expected = {name: value.clone().double() for name, value in steps[0].items()}
    for step, weights in enumerate(steps[1:], start=2):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {name: decay * value + (1 - decay) * weights[name].double() for name, value in expected.items()}
    averaged = go(0.9, False).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name].double(), value, rtol=1e-5, atol=1e-6)


def test_rows_that_change_by_epoch_resume_exactly(tmp_path: Path) -> None:
    """As in recovery: augmented rows in every epoch, averaged weights, and a score other than macro-F1."""

    def go(folder: Path, loss: Callable[[Any, Batch], torch.Tensor]) -> tuple[Any, TrainingResult]:
        model = tiny("bert", blocks=2, num_labels=2)
        _, labels = learnable(48, 0)
        groups = batches(*learnable(24, 1), 64, length_bucketed=True, seed=None)
        rows = Rows(learnable(48, 0)[0], labels, epoch=lambda number: learnable(48, number)[0])
        objective = Objective(
            rows, loss, lambda current: {"score": -float(np.abs(predict(current, groups)).mean())}, average=0.9
        )
        result = fit(model, objective, SETTINGS, 3, folder, lambda line: None)
        return model, result

    whole, expected = go(tmp_path / "whole", loss_of)
    assert expected.best_step == max(expected.history, key=lambda entry: entry["score"])["step"]
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", interrupted_at(10))
    resumed, result = go(tmp_path / "cut", loss_of)
    assert result.resumed_from == 9
    assert same(whole, resumed)


@pytest.mark.parametrize("dropout", [True, False])
def test_dropout_is_the_recipes_to_switch_off(dropout: bool, tmp_path: Path) -> None:
    apart: list[float] = []

    def twice(model: Any, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            one, two = (model(**batch.inputs).logits for _ in range(2))
            apart.append(float((one - two).abs().max()))
        return loss_of(model, batch)

    _, result = run(tmp_path, settings=SETTINGS.model_copy(update={"dropout": dropout}), loss=twice)
    assert len(apart) == result.steps > 6, "evaluations between the steps do not leave another mode behind"
    assert min(apart) > 1e-4 if dropout else max(apart) == 0.0


def test_half_an_epoch(tmp_path: Path) -> None:
    _, result = run(tmp_path, settings=SETTINGS.model_copy(update={"epochs": 0.5}))
    assert result.steps == 3
    assert result.history[-1]["step"] == 3


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(LwcError, match="loss became nan"):
        run(tmp_path, loss=lambda model, batch: loss_of(model, batch) * float("nan"))


def test_two_precisions_in_one_process(tmp_path: Path) -> None:
    """A run trains and recovers in one process, and the two may differ in precision."""
    run(tmp_path / "a", settings=SETTINGS.model_copy(update={"epochs": 0.2}))
    run(tmp_path / "b", settings=SETTINGS.model_copy(update={"epochs": 0.2, "precision": "bf16"}))
    run(tmp_path / "c", settings=SETTINGS.model_copy(update={"epochs": 0.2}))


def test_warmup_then_linear_decay() -> None:
    settings = Optimization(learning_rate=0.1, warmup=0.2)
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[-1] == pytest.approx(0.1 / 8)
    assert all(rate > 0 for rate in rates)


def test_predict_keeps_row_order_and_ignores_padding() -> None:
    model = tiny("bert", num_labels=2)
    data, labels = learnable(11, 5)
    alone = predict(model, batches(data, labels, 1, length_bucketed=False, seed=None))
    for seed in (None, 1):
        mixed = predict(model, batches(data, labels, 4, length_bucketed=True, seed=seed))
        np.testing.assert_allclose(mixed, alone, atol=1e-5)
    assert alone.dtype == np.float32


# --- losses -------------------------------------------------------------------------------------


def test_losses_are_zero_for_equals_and_positive_otherwise() -> None:
    torch.manual_seed(0)
    one, two = torch.randn(4, 3), torch.randn(4, 3)
    assert float(distillation_loss(one, one, 2.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(distillation_loss(one, two, 2.0)) > 0
    assert float(distillation_loss(one + 5.0, one, 2.0)) == pytest.approx(0.0, abs=1e-5), "softmax ignores a shift"


def test_distillation_loss_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    p = torch.softmax(teacher / 2.0, -1)
    expected = 4.0 * float((p * (p.log() - np.log(0.5))).sum())
    assert float(distillation_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)


def test_hidden_loss_counts_real_tokens_only() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    before = hidden_loss(student, teacher, mask)
    student[0, 3:], teacher[0, 3:] = 1e4, -1e4
    assert torch.equal(hidden_loss(student, teacher, mask), before)
    assert float(hidden_loss(teacher, teacher, mask)) == 0.0
    assert float(hidden_loss(torch.zeros_like(teacher), teacher, mask)) == pytest.approx(1.0)
    assert float(hidden_loss(3 * student, 3 * teacher, mask)) == pytest.approx(float(before), rel=1e-5)


# --- recovery -----------------------------------------------------------------------------------


def test_matched_blocks() -> None:
    assert matched_blocks([0, 2, 5], 6) == [1, 4, 5]
    assert matched_blocks([0, 1, 2], 3) == [0, 1, 2]
    assert matched_blocks([3], 6) == [5]


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "deberta-v2", "mpnet"])
def test_the_teacher_gives_its_logits_and_the_matched_blocks(model_type: str) -> None:
    model = tiny(model_type, num_labels=2)
    data, labels = learnable(9, 0)
    for batch in batches(data, labels, 4, length_bucketed=True, seed=2):
        taught = live_teacher(model, [1, 3])(batch)
        with torch.inference_mode(), BlockOutputs(model, range(4)) as capture:
            logits = model(**batch.inputs).logits
            hidden = capture.take()
        assert torch.equal(taught.logits, logits)
        assert not taught.logits.requires_grad
        assert torch.equal(taught.hidden[0], hidden[1])
        assert torch.equal(taught.hidden[1], hidden[3])


def test_an_uncut_student_has_nothing_to_recover() -> None:
    model = tiny("bert", num_labels=2)
    data, labels = learnable(8, 0)
    batch = batches(data, labels, 8, length_bucketed=True, seed=None)[0]
    teacher = live_teacher(model, matched_blocks([0, 1, 2, 3], 4))
    with BlockOutputs(model, range(4)) as capture:
        assert recovery_loss(model, teacher, Recovery(), capture, batch).item() < 1e-5
    cut = remove_blocks(model, family_of(model), [1])
    teacher = live_teacher(model, matched_blocks([0, 2, 3], 4))
    with BlockOutputs(cut, range(3)) as capture:
        assert recovery_loss(cut, teacher, Recovery(), capture, batch).item() > 1e-3


def test_validation_passes_pile_nothing_up() -> None:
    """Hooks stay while the student is evaluated: only the last pass may be kept in memory."""
    model = tiny("bert", num_labels=2)
    data, labels = learnable(20, 0)
    with BlockOutputs(model, range(4)) as capture:
        predict(model, batches(data, labels, 2, length_bucketed=True, seed=None))
        assert len(capture.take()) == 4
