"""Recovery's levers: stored answers, attention maps, embedding rate, more text, trimming, random weights."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from taught import live_teacher, recovery_loss
from test_train_and_recover import base, quiet, recipe_of  # noqa: F401 - base is a fixture
from tiny_models import tiny, tokens

from lwc.data.unlabelled import more_texts
from lwc.models.batches import Batch, batches
from lwc.models.families import family_of
from lwc.models.forward.kept import answers_folder, asked_once
from lwc.models.forward.predict import predict
from lwc.models.load import load_classifier, load_tokenizer, save_checkpoint
from lwc.models.losses import attention_loss
from lwc.models.surgery import remove_blocks
from lwc.recipe import Data, Recipe, Recovery, Unlabelled
from lwc.training.distillation import random_weights
from lwc.training.loop import parameter_groups
from lwc.training.recovery import recover
from lwc.training.teacher import (
    BlockOutputs,
    RememberedTeacher,
    store_answers,
    stored_bytes,
)

LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


def test_stored_answers_are_those_of_the_live_teacher(tmp_path: Path) -> None:
    model, rows = tiny("bert", blocks=4), tokens(7)
    stored = store_answers(live_teacher(model, [1, 3]), rows, tmp_path / "teacher", quiet)
    live = live_teacher(model, [1, 3])
    for batch in batches(rows, LABELS, 3, length_bucketed=False, seed=None):
        kept, asked = stored(batch), live(batch)
        torch.testing.assert_close(kept.logits, asked.logits, atol=1e-5, rtol=1e-5)
        for mine, theirs in zip(kept.hidden, asked.hidden, strict=True):
            real = batch.mask.unsqueeze(-1)
            torch.testing.assert_close(mine * real, theirs * real, atol=1e-5, rtol=1e-5)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "teacher").glob("hidden-*"))
    assert on_disk - stored_bytes(rows, 2, 16) == 2 * 128, "two NumPy headers, and what was announced"


def test_stored_answers_are_found_again_and_not_for_another_teacher(tmp_path: Path) -> None:
    rows, folder, said = tokens(7), tmp_path / "teacher", []
    store_answers(live_teacher(tiny("bert", seed=0), [3]), rows, folder, said.append)
    asked = len(said)
    store_answers(live_teacher(tiny("bert", seed=0), [3]), rows, folder, said.append)
    assert len(said) == asked, "nothing was asked again"
    other = store_answers(live_teacher(tiny("bert", seed=1), [3]), rows, folder, said.append)
    assert len(said) == 2 * asked
    batch = batches(rows, LABELS, 7, length_bucketed=False, seed=None)[0]
    torch.testing.assert_close(other(batch).logits, live_teacher(tiny("bert", seed=1), [3])(batch).logits)


def test_half_written_answers_are_not_trusted(tmp_path: Path) -> None:
    rows, folder = tokens(7), tmp_path / "teacher"

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_answers(live_teacher(tiny("bert"), [3]), rows, folder, killed)
    assert not folder.exists()
    batch = batches(rows, LABELS, 7, length_bucketed=False, seed=None)[0]
    found = store_answers(live_teacher(tiny("bert"), [3]), rows, folder, quiet)(batch)
    torch.testing.assert_close(found.logits, live_teacher(tiny("bert"), [3])(batch).logits, atol=1e-5, rtol=1e-5)


def test_attention_loss_is_the_mean_kl_over_real_queries() -> None:
    random = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    scores = torch.randn(2, 2, 3, 4, 4, generator=random)
    hidden = scores.masked_fill(mask[None, :, None, None, :] == 0, -1e9)
    student, teacher = hidden.softmax(-1)
    terms = []
    for row in range(2):
        for head in range(3):
            for query in range(int(mask[row].sum())):
                p, q = teacher[row, head, query], student[row, head, query]
                terms.append(sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True) if a > 0))
    assert float(attention_loss(student, teacher, mask)) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(attention_loss(teacher, teacher, mask)) == pytest.approx(0, abs=1e-7)


def test_attention_reaches_the_gradient() -> None:
    model = tiny("bert", blocks=4)
    cut = remove_blocks(model, family_of(model), [1]).train(False)
    settings = Recovery(logits_weight=0, hidden_weight=0, attention_weight=1)
    batch = batches(tokens(6), LABELS[:6], 6, length_bucketed=False, seed=None)[0]
    with BlockOutputs(cut, range(3)) as capture:
        loss = recovery_loss(cut, live_teacher(model, [1, 2, 3], attention=True), settings, capture, batch)
        loss.backward()
        assert float(loss.detach()) > 1e-4
        assert float(cut.bert.encoder.layer[2].attention.self.query.weight.grad.abs().max()) > 0
        same = remove_blocks(model, family_of(model), [])
    with BlockOutputs(same, range(4)) as capture:
        none = recovery_loss(same, live_teacher(model, range(4), attention=True), settings, capture, batch)
    assert float(none.detach()) == pytest.approx(0, abs=1e-6)


def test_embeddings_learn_at_their_share_of_the_rate() -> None:
    model = tiny("bert")
    groups = parameter_groups(model, 0.01, 0.1)
    words = model.get_input_embeddings().weight
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert scales[id(words)] == 0.1
    assert all(scale == 1.0 for key, scale in scales.items() if key != id(words))
    assert len(scales) == len(list(model.parameters()))


def mute(model: Any) -> Any:
    """A teacher that must not be asked."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the teacher was asked")

    model.forward = refuse
    return model


def test_remembered_answers_are_to_the_bit_those_of_the_live_teacher(tmp_path: Path) -> None:
    groups = batches(tokens(7), LABELS, 3, length_bucketed=False, seed=None)
    first = RememberedTeacher(live_teacher(tiny("bert", blocks=4), [1, 3]), tmp_path, 1 << 20)
    said = [first(batch) for batch in groups]
    live = live_teacher(tiny("bert", blocks=4), [1, 3])
    again = RememberedTeacher(live_teacher(mute(tiny("bert", blocks=4)), [1, 3]), tmp_path, 1 << 20)
    for batch, one in zip(groups, said, strict=True):
        for other in (live(batch), again(batch)):
            assert torch.equal(one.logits, other.logits)
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.hidden, other.hidden, strict=True))
    # Another cut is matched with other blocks.
    wider = RememberedTeacher(live_teacher(mute(tiny("bert", blocks=4)), [0, 2, 3]), tmp_path, 1 << 20)(groups[0])
    wanted = live_teacher(tiny("bert", blocks=4), [0, 2, 3])(groups[0])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(wider.hidden, wanted.hidden, strict=True))
    with pytest.raises(AssertionError, match="was asked"):
        again(batches(tokens(7), LABELS, 2, length_bucketed=False, seed=None)[0])


def test_answers_that_are_not_whole_are_asked_again_and_a_full_disk_stops_no_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (batch,) = batches(tokens(3), LABELS[:3], 3, length_bucketed=False, seed=None)
    wanted = live_teacher(tiny("bert", blocks=4), [3])(batch)
    RememberedTeacher(live_teacher(tiny("bert", blocks=4), [3]), tmp_path, 1 << 20)(batch)
    for path in tmp_path.glob("*-3.npy"):
        path.write_bytes(path.read_bytes()[:-5])
    for path in tmp_path.glob("*-logits.npy"):
        path.write_bytes(b"")  # after a power loss
    again = RememberedTeacher(live_teacher(tiny("bert", blocks=4), [3]), tmp_path, 1 << 20)
    assert torch.equal(again(batch).hidden[0], wanted.hidden[0])
    whole = RememberedTeacher(live_teacher(mute(tiny("bert", blocks=4)), [3]), tmp_path, 1 << 20)(batch)
    assert torch.equal(whole.hidden[0], wanted.hidden[0])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    teacher = RememberedTeacher(live_teacher(tiny("bert", blocks=4), [3]), tmp_path / "other", 1 << 20)
    assert all(torch.equal(teacher(batch).logits, wanted.logits) for _ in range(2))
    assert [record.message for record in caplog.records if "No space left" in record.message], "it is told, once"
    assert len(caplog.records) == 1


def test_remembered_answers_stay_within_their_share_of_the_disk(tmp_path: Path) -> None:
    groups = batches(tokens(7), LABELS, 3, length_bucketed=False, seed=None)
    one = live_teacher(tiny("bert", blocks=4), range(4))(groups[0])
    size = one.logits.nbytes + sum(states.nbytes for states in one.hidden)
    for _ in range(2):
        teacher = RememberedTeacher(live_teacher(tiny("bert", blocks=4), [3]), tmp_path / "answers", size)
        said = [teacher(batch) for batch in groups]
        assert torch.equal(said[0].logits, one.logits)
        assert len(said) == 3
    assert sum(np.load(path).nbytes for path in (tmp_path / "answers").iterdir()) == size


def test_every_teacher_has_answers_of_its_own(tmp_path: Path) -> None:
    one, same, other = (answers_folder(tmp_path, tiny("bert", seed=seed)) for seed in (0, 0, 1))
    assert one == same != other


def test_the_test_split_is_asked_once_of_one_base_and_anew_where_anything_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tokens(7)

    def groups(size: int) -> list[Batch]:
        return batches(rows, LABELS, size, length_bucketed=True, seed=None)

    wanted = predict(tiny("bert"), groups(3))
    assert np.array_equal(asked_once(tiny("bert"), rows, groups(3), tmp_path), wanted)
    assert np.array_equal(asked_once(mute(tiny("bert")), rows, groups(3), tmp_path), wanted), "to the bit"
    for model, size, folder in (
        (tiny("bert"), 2, tmp_path),
        (tiny("bert", seed=1), 3, tmp_path),
        (tiny("bert"), 3, None),
    ):
        with pytest.raises(AssertionError, match="was asked"):
            asked_once(mute(model), rows, groups(size), folder)
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-5])
    assert np.array_equal(asked_once(tiny("bert"), rows, groups(3), tmp_path), wanted)
    assert np.array_equal(np.load(path), wanted), "whole again"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert np.array_equal(asked_once(tiny("bert"), rows, groups(3), tmp_path / "other"), wanted)
    assert "No space left" in caplog.text


def recovered(
    base: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    name: str,
    answers: Path | None = None,
    **changes: Any,
) -> tuple[Path, Recipe]:
    data, out = base
    teacher = load_classifier(out / "model")
    cut = tmp_path / "cut"
    if not cut.exists():
        smaller = remove_blocks(teacher, family_of(teacher), [1, 2])
        save_checkpoint(smaller, load_tokenizer(out / "model"), cut / "model")
    recipe = Recipe.model_validate(
        {**recipe_of().model_dump(), **{key: value for key, value in changes.items() if key == "vocabulary"}}
    )
    more = {key: value for key, value in changes.items() if key != "vocabulary"}
    settings = Recovery.model_validate({**recipe.recover.model_dump(), **more})
    recipe = recipe.model_copy(update={"recover": settings})
    stages = {"data": data, "train": out, "remove": cut}
    recover(recipe, [0, 3], stages, tmp_path / name, tmp_path / f"{name}-scratch", quiet, answers)
    return tmp_path / name, recipe


def test_recovery_is_to_the_bit_the_same_with_remembered_answers(
    base: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    answers = tmp_path / "answers"
    runs = [
        recovered(base, tmp_path, name, epochs=1, augment=0.5, answers=place)[0]
        for name, place in (("live", None), ("asked", answers), ("remembered", answers))
    ]
    held = sorted(path.name for path in answers.rglob("*.npy"))
    assert held
    live, asked, remembered = ((run / "model" / "model.safetensors").read_bytes() for run in runs)
    assert live == asked == remembered
    recovered(base, tmp_path, "never", epochs=1, cache_teacher="never", answers=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_recovery_ends_alike_with_stored_and_live_answers(base: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    live, _ = recovered(base, tmp_path, "live", cache_teacher="never")
    stored, _ = recovered(base, tmp_path, "stored", cache_teacher="always")
    assert list((tmp_path / "stored-scratch" / "teacher").glob("hidden-*"))
    assert not (tmp_path / "live-scratch" / "teacher").exists()
    one, two = load_classifier(live / "model"), load_classifier(stored / "model")
    for (name, mine), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=1e-2, msg=name)


def test_trimming_leaves_the_answers_and_takes_the_rows(base: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    whole, _ = recovered(base, tmp_path, "whole")
    trimmed, _ = recovered(base, tmp_path, "trimmed", vocabulary={"trim": True})
    figures = json.loads((trimmed / "metrics.json").read_text())["vocabulary"]
    assert figures["after"] < figures["before"]
    assert figures["coverage_of_validation"] == 1.0
    logits = []
    for folder in (whole, trimmed):
        model, tokenizer = load_classifier(folder / "model"), load_tokenizer(folder / "model")
        assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
        with torch.inference_mode():
            logits.append(model(**tokenizer(["good great works", "awful refund"], padding=True, return_tensors="pt")))
    torch.testing.assert_close(logits[0].logits, logits[1].logits, atol=1e-6, rtol=0)


def test_random_weights_keep_the_shape_only() -> None:
    model = tiny("bert", blocks=2)
    fresh = random_weights(model, 3)
    shapes = [(name, p.shape) for name, p in model.named_parameters()]
    assert [(name, p.shape) for name, p in fresh.named_parameters()] == shapes
    mine, theirs = (dict(one.named_parameters())["bert.encoder.layer.0.output.dense.weight"] for one in (fresh, model))
    assert not torch.allclose(mine, theirs)
    again = random_weights(model, 3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), again.parameters(), strict=True))


def split_file(path: Path, texts: list[str], users: list[str | None]) -> None:
    frame = {"id": range(len(texts)), "text": texts, "label": [0] * len(texts), "user": users}
    pd.DataFrame(frame).to_parquet(path)


def test_more_text_tells_nothing_about_the_held_out_splits(tmp_path: Path) -> None:
    long = " ".join(f"word{number}" for number in range(60))
    split_file(tmp_path / "train.parquet", ["Known text"], ["a"])
    split_file(tmp_path / "validation.parquet", ["held out", long], ["b", "b"])
    split_file(tmp_path / "test.parquet", ["secret"], ["c"])
    rows = [
        ("a", "known  text!"), ("b", "new, by a validation user"), ("c", "new, by a test user"), ("d", "HELD OUT"),
        ("e", long + " again"), ("f", "fresh one"), ("g", "fresh two"), ("h", "fresh  TWO"), ("i", ""),
    ]  # fmt: skip
    pd.DataFrame(rows, columns=["who", "text"]).to_csv(tmp_path / "more.csv", index=False)
    source = {"kind": "table", "paths": [str(tmp_path / "more.csv")], "columns": {"body": "text", "user": "who"}}
    config = Unlabelled.model_validate({"source": source})
    assert more_texts(config, Data(), tmp_path, 0, quiet) == ["fresh one", "fresh two"]
    assert len(more_texts(config.model_copy(update={"limit": 1}), Data(), tmp_path, 0, quiet)) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cache_teacher": "always", "augment": 0.5}, "cache_teacher: always needs augment: 0"),
        ({"label_weight": 0.5, "augment": 0.5}, "label_weight needs labels, which may be wrong"),
        ({"logits_weight": 0, "hidden_weight": 0}, "every weight of the loss is 0"),
        ({"unlabelled": {"source": {"kind": "amazon-sample"}}, "label_weight": 1}, "label_weight needs labels"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Recovery.model_validate(changes)
