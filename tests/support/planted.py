"""Models whose answer is known: a block that does nothing, a block that does everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tiny_models import OUTPUTS, VOCAB, tiny, tokens

from lwc.models.batches import Batch, Encoded, batches
from lwc.models.families import block_list, family_of
from lwc.models.forward.predict import predict
from lwc.models.load import build_from_config
from lwc.recipe import METHODS, FromConfig, Score

BLOCKS = 4
SCORERS = {name: METHODS[name].load() for name in METHODS.names() if METHODS[name].reads == "model"}
# A depth profile is measured on another model and needs one: test_llama_profile.py.
MEASURING = sorted(set(SCORERS) - {"llama_profile"})


def scale_output(model: Any, block: int, factor: float) -> None:
    """Multiply what a block adds to the residual stream: 0 makes it the identity (post-norm: as its norms are at 1)."""
    for path in OUTPUTS[model.config.model_type]:
        last = block_list(model, family_of(model))[block].get_submodule(path)
        offset = 1.0 if path.endswith("norm") else 0.0
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.add_(offset).mul_(factor).sub_(offset)


def own_labels(model: Any, encoded: Encoded) -> np.ndarray:
    """The model's own answers, centred so that every class is given: labels its blocks are needed for."""
    logits = predict(model, batches(encoded, np.zeros(len(encoded)), 8, length_bucketed=True, seed=None))
    answers = [
        one for one in model.modules() if isinstance(one, torch.nn.Linear) and len(one.weight) == logits.shape[1]
    ]
    if answers[-1].bias is not None:  # a decoder's head has none
        with torch.no_grad():
            answers[-1].bias.sub_(torch.from_numpy(logits.mean(axis=0)))
    labels: np.ndarray = (logits - logits.mean(axis=0)).argmax(axis=1)
    assert len(set(labels.tolist())) > 1
    return labels


def data(model: Any, rows: int = 24, batch_size: int = 8, seed: int = 3) -> list[Batch]:
    """Ragged texts labelled by the model itself."""
    encoded = tokens(rows, seed=seed)
    return batches(encoded, own_labels(model, encoded), batch_size, length_bucketed=True, seed=None)


def config_for(method: str) -> Any:
    """Settings that make a method cheap: what is claimed of its scores does not depend on them."""
    cheap = {"conductance": {"steps": 2}, "mutual_information": {"permutations": 1}, "shap": {"permutations": 2}}
    return Score.model_validate({"methods": [{"method": method, **cheap.get(method, {})}]}).methods[0]


def rows_for(method: str) -> int:
    """As many texts as the method needs: a probe that is fitted to labels learns nothing from two dozen."""
    return 120 if method == "mutual_information" else 24


def with_identity(model_type: str, block: int) -> Any:
    """All blocks matter but this one, whose output projections are zero."""
    model = tiny(model_type, blocks=BLOCKS, seed=1)
    scale_output(model, block, 0.0)
    return model


def with_indispensable(model_type: str, block: int) -> Any:
    """This block makes the answer; the others add a thousandth of what they did."""
    model = tiny(model_type, blocks=BLOCKS, seed=1)
    for index in range(BLOCKS):
        scale_output(model, index, 2.0 if index == block else 1e-3)
    return model


class Words:
    """As much of a tokenizer as ``build_from_config`` reads."""

    pad_token_id, cls_token_id, sep_token_id = 1, 2, 3

    def __len__(self) -> int:
        return VOCAB


def pre_norm(blocks: int, seed: int = 0) -> Any:
    """A pre-norm model whose block is the identity exactly when its weights are 0."""
    settings = FromConfig(kind="config", blocks=blocks, hidden=16, heads=2, dropout=0.1, max_length=40)
    model = build_from_config(settings, Words(), ["bad", "fair", "good"], seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model


def scale(model: Any, index: int, factor: float) -> None:
    """Multiply all weights of a block."""
    with torch.no_grad():
        for parameter in block_list(model, family_of(model))[index].parameters():
            parameter.mul_(factor)
