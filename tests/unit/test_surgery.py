"""Bypass and removal of blocks, on every family row."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny, tokens
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    BloomModel,
)

from lwc.core.errors import ModelError
from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.forward.predict import predict
from lwc.models.surgery import bypass, parameter_counts, remove_blocks

TYPES = sorted(FAMILIES)
DATA = batches(tokens(), np.zeros(5), 2, length_bucketed=True, seed=None)


@pytest.mark.parametrize("model_type", TYPES)
def test_removed_equals_bypassed(model_type: str) -> None:
    model = tiny(model_type, blocks=5)
    family = family_of(model)
    before = predict(model, DATA)
    for removed in ([1], [1, 3], [2, 4], [1, 2, 3, 4]):
        with bypass(model, family, removed):
            bypassed = predict(model, DATA)
        assert np.abs(bypassed - before).max() > 1e-4, "the blocks must matter for the test to say anything"
        np.testing.assert_allclose(predict(remove_blocks(model, family, removed), DATA), bypassed, atol=1e-6, rtol=0)
    assert np.array_equal(predict(model, DATA), before), "model and its copies are independent"


@pytest.mark.parametrize("model_type", TYPES)
def test_removing_nothing_changes_nothing(model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    same = remove_blocks(model, family_of(model), [])
    assert np.array_equal(predict(same, DATA), predict(model, DATA))
    assert same.config.to_dict() == model.config.to_dict()


@pytest.mark.parametrize("model_type", TYPES)
def test_bypass_is_identity_on_the_residual_stream(model_type: str) -> None:
    model = tiny(model_type)
    family = family_of(model)
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def hook(index: int):
        def keep(_: object, args: tuple, output: object) -> None:
            seen[index] = (args[0], output[0] if isinstance(output, tuple) else output)

        return keep

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(block_list(model, family))]
    with bypass(model, family, [2]):
        predict(model, DATA[:1] + DATA[1:])
    for handle in handles:
        handle.remove()
    assert sorted(seen) == [0, 1, 2, 3], "hooks on bypassed and other blocks still run"
    assert torch.equal(*seen[2])
    assert not torch.equal(*seen[1])
    assert torch.equal(seen[3][0], seen[1][1])


def test_a_bypassed_block_takes_its_input_by_name_too() -> None:
    model = tiny("bert")
    hidden = torch.ones(1, 2, 16)
    block = block_list(model, family_of(model))[1]
    with bypass(model, family_of(model), [1]):
        assert block(hidden_states=hidden) is hidden
        assert block(hidden, None) is hidden


@pytest.mark.parametrize("model_type", TYPES)
def test_nested_bypass_restores_exactly(model_type: str) -> None:
    model = tiny(model_type)
    family = family_of(model)
    plain = predict(model, DATA)
    with bypass(model, family, [1]):
        one = predict(model, DATA)
        with bypass(model, family, [1, 2]):
            two = predict(model, DATA)
        assert np.array_equal(predict(model, DATA), one)
        with pytest.raises(RuntimeError, match="inside"), bypass(model, family, [3]):
            raise RuntimeError("inside")
        assert np.array_equal(predict(model, DATA), one)
    assert not np.array_equal(one, two)
    assert np.array_equal(predict(model, DATA), plain)
    assert all("forward" not in block.__dict__ for block in block_list(model, family))


@pytest.mark.parametrize("model_type", TYPES)
def test_counts_add_up(model_type: str) -> None:
    model = tiny(model_type)
    family = family_of(model)
    counts = parameter_counts(model, family)
    smaller = remove_blocks(model, family, [1, 3])
    assert sum(p.numel() for p in smaller.parameters()) == counts.without([1, 3])


FRESH = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
ids = torch.tensor(json.loads(sys.argv[1]))
logits = {}
for folder in sys.argv[2:]:
    task = AutoModelForCausalLM if folder.endswith("-lm") else AutoModelForSequenceClassification
    model = task.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits[Path(folder).name] = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.tolist()
assert not any(name.startswith("lwc") for name in sys.modules)
print(json.dumps(logits))
"""


def test_saved_loads_in_a_fresh_process_with_stock_transformers(tmp_path: Path) -> None:
    """Every row's classifier, and the decoders' language models, with no line of this project in the process."""
    ids = [[2, 9, 11, 40, 3, 17, 8], [2, 33, 8, 8, 3, 21, 5]]
    inputs = torch.tensor(ids)
    expected: dict[str, np.ndarray] = {}
    jobs = [(name, name, AutoModelForSequenceClassification) for name in TYPES]
    jobs += [(f"{name}-lm", name, AutoModelForCausalLM) for name in TYPES if FAMILIES[name].decoder]
    for folder, model_type, task in jobs:
        model = tiny(model_type, blocks=7, task=task)
        # Blocks 2 and 5: of ModernBERT's local-attention layers and of the middle of every list.
        smaller = remove_blocks(model, family_of(model), [2, 5])
        smaller.save_pretrained(tmp_path / folder)
        with torch.inference_mode():
            expected[folder] = smaller(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits.numpy()
    folders = [str(tmp_path / folder) for folder, _, _ in jobs]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps(ids), *folders], capture_output=True, text=True, check=True
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers.keys() == expected.keys()
    for name, logits in answers.items():
        np.testing.assert_allclose(np.array(logits), expected[name], atol=1e-5, rtol=0, err_msg=name)


def test_modernbert_lists_and_indices_follow_the_kept_blocks() -> None:
    model = tiny("modernbert", blocks=7)
    types = list(model.config.layer_types)
    smaller = remove_blocks(model, family_of(model), [1, 3])
    assert smaller.config.layer_types == [types[i] for i in (0, 2, 4, 5, 6)]
    assert smaller.config.num_hidden_layers == 5
    assert [b.attention_type for b in block_list(smaller, family_of(smaller))] == smaller.config.layer_types
    assert model.config.layer_types == types
    for position, block in enumerate(block_list(smaller, family_of(smaller))):
        indices = {m.layer_idx for m in block.modules() if isinstance(getattr(m, "layer_idx", None), int)}
        assert indices <= {position}


def test_block_1_is_not_block_10() -> None:
    """Matching names by prefix would take layers 10 and 11 for layer 1."""
    model = tiny("bert", blocks=12)
    smaller = remove_blocks(model, family_of(model), [1])
    before, after = block_list(model, family_of(model)), block_list(smaller, family_of(smaller))
    for position, index in enumerate([0, *range(2, 12)]):
        for ours, theirs in zip(after[position].parameters(), before[index].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_deberta_convolution_belongs_to_block_0() -> None:
    """With a convolution after block 0, removing it would move the convolution behind another block."""
    model = tiny("deberta-v2", conv_kernel_size=3)
    family = family_of(model)
    assert 0 in family.protected
    with pytest.raises(ModelError, match="carry a role"):
        remove_blocks(model, family, [0])
    assert 0 not in family_of(tiny("deberta-v2")).protected


def test_tied_weights_stay_tied_and_are_saved_once(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    model = BertForMaskedLM(config).eval()
    smaller = remove_blocks(model, family_of(model), [1])
    embedding, head = smaller.get_input_embeddings(), smaller.get_output_embeddings()
    assert embedding.weight.data_ptr() == head.weight.data_ptr()
    assert embedding.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    smaller.save_pretrained(tmp_path)
    again = BertForMaskedLM.from_pretrained(tmp_path)
    assert again.get_input_embeddings().weight.data_ptr() == again.get_output_embeddings().weight.data_ptr()
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert sum("word_embeddings" in key or "decoder.weight" in key for key in file.keys()) == 1  # noqa: SIM118


@pytest.mark.parametrize(("removed", "words"), [([4], "no blocks"), ([-1], "no blocks"), ([0, 1, 2, 3], "every block")])
def test_impossible_removals_are_refused(removed: list[int], words: str) -> None:
    model = tiny("bert")
    with pytest.raises(ModelError, match=words):
        remove_blocks(model, family_of(model), removed)


def test_protected_block_is_refused() -> None:
    model = tiny("modernbert")
    with pytest.raises(ModelError, match="carry a role"):
        remove_blocks(model, family_of(model), [0, 1])


def test_unknown_and_refused_families() -> None:
    bloom = BloomModel(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match="supported: bert") as caught:
        family_of(bloom)
    assert "FAMILIES" in caught.value.hint
    albert = AlbertConfig(vocab_size=32, embedding_size=16, hidden_size=16, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ModelError, match="share one set of weights"):
        family_of(AlbertForSequenceClassification(albert))


def test_removal_does_not_touch_the_original() -> None:
    model = tiny("bert")
    config, weights = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.state_dict())
    remove_blocks(model, family_of(model), [0, 2])
    assert model.config.to_dict() == config
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
