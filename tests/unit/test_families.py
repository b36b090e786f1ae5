"""Every row of the family table does what it says: language models, caches, scores, export. A new row needs no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import families, methods_by_family
from planted import MEASURING, SCORERS, config_for, rows_for, scale_output
from tiny_models import OUTPUTS, VOCAB, tiny, tokens
from torch import Tensor
from toy_model import ToyConfig, ToyForSequenceClassification
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from lwc.core.errors import ModelError
from lwc.export.onnx import export_onnx
from lwc.export.session import cpu_session, run
from lwc.models.batches import Batch, batches
from lwc.models.families import (
    CAUSAL_LM,
    FAMILIES,
    REFUSED,
    Family,
    block_list,
    check_padding,
    families_table,
    family_of,
)
from lwc.models.forward.predict import predict
from lwc.models.surgery import bypass, remove_blocks

TYPES = sorted(FAMILIES)
DECODERS = [name for name in TYPES if FAMILIES[name].decoder]
PRE_NORM = ["modernbert", *DECODERS]
# Blocks of more than one kind of attention.
MIXED = ["gemma2", "gemma3_text", "modernbert", "qwen2", "qwen3", "smollm3"]
SIGNED = {"ablation", "mutual_information", "shap"}
# Longer than the tiny models' windows of 4 tokens.
PROMPT = torch.tensor([[2, 9, 11, 40, 17, 8, 33], [2, 33, 8, 5, 21, 60, 7]])


def test_the_table_says_what_the_rows_say() -> None:
    table = families_table()
    assert [row["model_type"] for row in table] == [*FAMILIES, *REFUSED]
    assert not set(FAMILIES) & set(REFUSED)
    keys = ["model_type", "blocks", "depth_field", "protected", "tasks", "refused"]
    assert all(list(row) == keys and all(type(value) is str for value in row.values()) for row in table)
    rows = {row["model_type"]: row for row in table}
    assert rows["modernbert"]["protected"] == "0"
    assert rows["deberta-v2"]["protected"] == "0 with conv_kernel_size"
    assert rows["gpt2"]["depth_field"] == "n_layer"
    assert rows["llama"]["tasks"] == "sequence-classification, causal-lm"
    assert rows["bert"]["tasks"] == "sequence-classification"
    assert "position bias" in rows["t5"]["refused"]
    assert all(bool(rows[name]["refused"]) == (name in REFUSED) for name in rows)


def test_rows_have_tiny_models() -> None:
    assert set(OUTPUTS) == set(FAMILIES)


@pytest.mark.parametrize("model_type", ["albert", "bart", "mbart", "mt5", "t5"])
def test_refused_types_say_why(model_type: str) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "hidden_size": 16,
             "embedding_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "encoder_layers": 2,
             "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
    model = AutoModel.from_config(AutoConfig.for_model(model_type, vocab_size=VOCAB, **sizes))
    with pytest.raises(ModelError, match=REFUSED[model_type][:20]):
        family_of(model)


def test_blocks_that_compute_with_their_number_are_refused() -> None:
    model = tiny("gpt2", blocks=2, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ModelError, match="own number"):
        family_of(model)


@pytest.mark.parametrize("model_type", DECODERS)
def test_language_model_removed_equals_bypassed(model_type: str) -> None:
    model = tiny(model_type, blocks=5, task=AutoModelForCausalLM)
    family = family_of(model)
    with torch.inference_mode():
        before = model(PROMPT).logits
        for removed in ([0], [1, 3], [2, 4], [0, 1, 2, 4]):
            with bypass(model, family, removed):
                bypassed = model(PROMPT, use_cache=False).logits
            assert (bypassed - before).abs().max() > 1e-3, "the blocks must matter for the test to say anything"
            logits = remove_blocks(model, family, removed)(PROMPT).logits
            torch.testing.assert_close(logits, bypassed, atol=1e-6, rtol=0)
        assert torch.equal(model(PROMPT).logits, before)


def greedy(model: Any, use_cache: bool) -> tuple[Tensor, Tensor]:
    """Eight more tokens (B, 8) and the logits (8, B, V) they were taken from."""
    found = model.generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=8, min_new_tokens=8, do_sample=False,
        use_cache=use_cache, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    return found.sequences[:, PROMPT.shape[1] :], torch.stack(found.logits)


@pytest.mark.parametrize("model_type", DECODERS)
def test_generation_agrees_with_and_without_cache(model_type: str, tmp_path: Path) -> None:
    """A stale ``layer_idx`` or list of attention types shows in the cache, in memory and after a reload."""
    # Not tied: a random model with tied words repeats the last one, whatever its blocks do.
    model = tiny(model_type, blocks=7, task=AutoModelForCausalLM, tie_word_embeddings=False)
    # The first block goes as well: caches count their tokens in block 0.
    smaller = remove_blocks(model, family_of(model), [0, 2, 5])
    smaller.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens_of, logits = greedy(smaller, use_cache=False)
    assert len(set(tokens_of.flatten().tolist())) > 2, "a constant answer would agree with everything"
    for candidate, use_cache in ((smaller, True), (again, False), (again, True)):
        found, scores = greedy(candidate, use_cache)
        assert torch.equal(found, tokens_of)
        torch.testing.assert_close(scores, logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", DECODERS)
def test_tied_weights_stay_tied(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type, blocks=3, task=AutoModelForCausalLM, tie_word_embeddings=True)
    smaller = remove_blocks(model, family_of(model), [1])
    smaller.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for each in (smaller, again):
        assert each.get_input_embeddings().weight.data_ptr() == each.get_output_embeddings().weight.data_ptr()
    assert smaller.get_input_embeddings().weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    torch.testing.assert_close(again(PROMPT).logits, smaller(PROMPT).logits, atol=1e-5, rtol=0)
    untied = tiny(model_type, blocks=3, task=AutoModelForCausalLM, tie_word_embeddings=False)
    apart = remove_blocks(untied, family_of(untied), [1])
    counts = [sum(parameter.numel() for parameter in each.parameters()) for each in (apart, again)]
    assert counts[0] - counts[1] == VOCAB * 16, "tied weights are there once"


def kinds(model: Any) -> list[dict[str, Any]]:
    """What each block knows of its kind of attention."""
    names = ("layer_type", "attention_type", "sliding_window", "use_rope", "is_sliding", "local_attention")
    return [
        {name: getattr(module, name) for module in block.modules() for name in names if hasattr(module, name)}
        for block in block_list(model, family_of(model))
    ]


@pytest.mark.parametrize("model_type", MIXED)
def test_each_block_keeps_its_kind_of_attention(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type, blocks=7)
    before = kinds(model)
    assert len({str(kind) for kind in before}) > 1, "one kind only would prove nothing"
    kept = [0, 3, 4, 6]
    smaller = remove_blocks(model, family_of(model), [1, 2, 5])
    smaller.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    # Saved once more, by someone who never heard of the cut.
    again.save_pretrained(tmp_path / "twice")
    twice = AutoModelForSequenceClassification.from_pretrained(tmp_path / "twice", attn_implementation="eager").eval()
    for each in (smaller, again, twice):
        assert kinds(each) == [before[index] for index in kept]
        for name in FAMILIES[model_type].per_block_fields:
            assert getattr(each.config, name) == [getattr(model.config, name)[index] for index in kept]
        torch.testing.assert_close(each(PROMPT).logits, smaller(PROMPT).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_max_window_layers_counts_the_kept_blocks(model_type: str) -> None:
    """A reader that knows no ``layer_types`` rebuilds them from the number."""
    model = tiny(model_type, blocks=6, max_window_layers=3)
    smaller = remove_blocks(model, family_of(model), [1, 4])
    assert smaller.config.max_window_layers == 2
    values = {name: value for name, value in smaller.config.to_dict().items() if name != "layer_types"}
    assert type(smaller.config)(**values).layer_types == smaller.config.layer_types
    assert smaller.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2


def test_a_pattern_that_no_longer_holds_is_not_saved(tmp_path: Path) -> None:
    model = tiny("gemma3_text", blocks=6)
    model.save_pretrained(tmp_path / "whole")
    remove_blocks(model, family_of(model), [1]).save_pretrained(tmp_path / "cut")
    whole, cut = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "cut"))
    assert whole["sliding_window_pattern"] == 3
    assert not [name for name in cut if "pattern" in name]
    assert cut["layer_types"] == [whole["layer_types"][index] for index in (0, 2, 3, 4, 5)]


def test_a_list_that_a_type_does_not_need_is_cut_too(tmp_path: Path) -> None:
    """Ministral checkpoints call themselves mistral; a list of another length cannot be loaded."""
    model = tiny("mistral", blocks=4, layer_types=["full_attention"] * 4)
    remove_blocks(model, family_of(model), [2]).save_pretrained(tmp_path)
    assert len(AutoModelForSequenceClassification.from_pretrained(tmp_path).config.layer_types) == 3


@pytest.mark.parametrize("model_type", TYPES)
def test_padding_does_not_change_a_row(model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    encoded = tokens(6, shortest=2, longest=12)
    assert len({len(ids) for ids in encoded.ids}) > 2
    together, alone = (
        predict(model, batches(encoded, np.zeros(6), size, length_bucketed=False, seed=None)) for size in (6, 1)
    )
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


def test_a_decoders_classifier_needs_the_padding_token() -> None:
    model = tiny("llama", blocks=2)
    check_padding(model, family_of(model), 1)
    with pytest.raises(ModelError, match="token 1 is padding, the tokenizer pads with 0"):
        check_padding(model, family_of(model), 0)
    model.config.pad_token_id = None
    with pytest.raises(ModelError, match="no pad_token_id") as caught:
        family_of(model)
    assert "config.json" in caught.value.hint
    # A language model and an encoder go by the mask.
    for other in (tiny("llama", blocks=2, task=AutoModelForCausalLM), tiny("bert", blocks=2)):
        other.config.pad_token_id = None
        check_padding(other, family_of(other), 0)


def scored_data(model: Any, rows: int) -> list[Batch]:
    """Ragged texts labelled by the model's own answers, centred so that every class is given."""
    encoded = tokens(rows, seed=3)
    logits = predict(model, batches(encoded, np.zeros(rows), 8, length_bucketed=True, seed=None))
    labels = (logits - logits.mean(axis=0)).argmax(axis=1)
    assert len(set(labels.tolist())) > 1
    return batches(encoded, labels, 8, length_bucketed=True, seed=None)


def scores_of(method: str, model: Any, rows: int) -> tuple[float, ...]:
    return SCORERS[method](model, family_of(model), scored_data(model, rows), config_for(method)).scores


@pytest.mark.parametrize(
    ("method", "model_type"), methods_by_family(MEASURING, [name for name in TYPES if name not in PRE_NORM], ("bert",))
)
def test_scorers_run_on_every_row(model_type: str, method: str) -> None:
    model = tiny(model_type, blocks=3)
    before = predict(model, scored_data(model, 12))
    found = scores_of(method, model, 12)
    assert len(found) == 3
    assert np.isfinite(found).all()
    assert len(set(found)) == 3
    assert np.array_equal(predict(model, scored_data(model, 12)), before)


@pytest.mark.parametrize(("method", "model_type"), methods_by_family(MEASURING, PRE_NORM, ("llama", "modernbert")))
def test_a_block_that_adds_nothing_scores_lowest(model_type: str, method: str) -> None:
    model = tiny(model_type, blocks=4, seed=1)
    scale_output(model, 2, 0.0)
    found = scores_of(method, model, max(12, rows_for(method) // 2))
    others = [score for index, score in enumerate(found) if index != 2]
    assert np.isfinite(found).all()
    assert abs(found[2]) < 1e-2 * min(abs(score) for score in others), found
    if method not in SIGNED:
        assert int(np.argmin(found)) == 2


class Words:
    """As much of a tokenizer as export asks for: two texts, padded on the right."""

    model_input_names = ("input_ids", "attention_mask")

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Tensor]:
        ids = torch.tensor([[2, 9, 3, 1, 1, 1], [2, 5, 6, 7, 8, 3]])
        return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@pytest.mark.parametrize("model_type", families(TYPES))
def test_exported_classifier_gives_the_same_logits(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type, blocks=3)
    model = remove_blocks(model, family_of(model), [1])
    export_onnx(model, Words(), tmp_path / "model.onnx")
    session = cpu_session(tmp_path / "model.onnx", 1)
    # One row, fewer and more tokens than the sample, texts of 1 token and of more than the attention window.
    for rows, longest in ((1, 2), (3, 5), (5, 30)):
        encoded = tokens(rows, seed=rows, shortest=1, longest=longest)
        (batch,) = batches(encoded, np.zeros(rows), rows, length_bucketed=False, seed=None)
        given = {name: value.numpy() for name, value in batch.inputs.items()}
        np.testing.assert_allclose(run(session, given), predict(model, [batch]), atol=1e-5, rtol=0)


def test_a_new_family_is_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ToyForSequenceClassification(ToyConfig(num_labels=3, pad_token_id=1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
        for parameter in model.trunk.tower.units[2].outer.parameters():
            parameter.zero_()
    with pytest.raises(ModelError, match="'toy' is not supported"):
        family_of(model)
    row = Family(
        "toy", "tower.units", depth_field="depth", per_block_fields=("gains",), as_output=lambda h: (h, None),
        pooling="mean",
    )  # fmt: skip
    monkeypatch.setitem(FAMILIES, "toy", row)
    assert "toy" in [each["model_type"] for each in families_table()]
    data = scored_data(model, 12)
    before = predict(model, data)
    with bypass(model, family_of(model), [1, 3]):
        bypassed = predict(model, data)
    assert np.abs(bypassed - before).max() > 1e-2
    smaller = remove_blocks(model, family_of(model), [1, 3])
    np.testing.assert_allclose(predict(smaller, data), bypassed, atol=1e-6, rtol=0)
    assert (smaller.config.depth, smaller.config.gains) == (2, [1.0, 3.0])
    smaller.save_pretrained(tmp_path)
    again = ToyForSequenceClassification.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(predict(again, data), bypassed, atol=1e-6, rtol=0)
    for method in MEASURING:
        found = scores_of(method, model, rows_for(method))
        assert abs(found[2]) < 1e-2 * min(abs(score) for index, score in enumerate(found) if index != 2), method
    export_onnx(smaller, Words(), tmp_path / "model.onnx")
    session = cpu_session(tmp_path / "model.onnx", 1)
    for batch in data:
        inputs = {name: value.numpy() for name, value in batch.inputs.items()}
        np.testing.assert_allclose(run(session, inputs), bypassed[batch.rows.numpy()], atol=1e-5, rtol=0)


def test_only_decoders_are_language_models() -> None:
    assert {row.model_type for row in FAMILIES.values() if CAUSAL_LM in row.tasks} == set(DECODERS)
    wanted = "gpt2 llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi phi3"
    assert set(wanted.split()) <= set(DECODERS)
