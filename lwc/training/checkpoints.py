"""Resumable training state on disk: safetensors and JSON, manifest last, the last two kept."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lwc.core import distributed
from lwc.core.store import file_digest, write_json
from lwc.models.types import Model

logger = logging.getLogger(__name__)
KEPT = 2


@dataclass
class Progress:
    """Where a training run is: steps done, the history of evaluations, and the best of them."""

    step: int
    history: list[dict[str, float]]
    best: float
    stale: int
    stopped: bool = False


def _rng_name(device: str, rank: int) -> str:
    return f"{device}.{rank}" if rank else device


def _rng_tensors() -> dict[str, Tensor]:
    """Random states of all processes: each draws its own dropout."""
    own = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    every = distributed.gather(own)
    return {_rng_name(device, rank): state for rank, states in enumerate(every) for device, state in states.items()}


def _rng_scalars() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, following = random.getstate()
    return {
        "python": [version, list(internal), following],
        "numpy": [name, [int(k) for k in keys], int(position), int(has_gauss), float(gauss)],
    }


def _restore_rng(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    rank = distributed.rank()
    # A run that resumes with more processes than it had: the new ones keep their fresh state.
    if _rng_name("torch", rank) in tensors:
        torch.set_rng_state(tensors[_rng_name("torch", rank)])
    if _rng_name("cuda", rank) in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[_rng_name("cuda", rank)])
    version, internal, following = scalars["python"]
    random.setstate((version, tuple(internal), following))
    name, keys, position, has_gauss, gauss = scalars["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def copied(model: Model | nn.Module) -> dict[str, Tensor]:
    """The weights as they are now. Tied ones do not share memory, which safetensors refuses."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def save(
    folder: Path,
    model: Model,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: dict[str, Tensor] | None,
    averaged: dict[str, Tensor] | None,
    identity: str,
) -> None:
    """Write ``folder/step-N`` aside, its manifest last, then rename; older ones beyond two are deleted.

    ``identity`` names the run: only a run of the same identity restores it. All processes call it, the main one writes.
    """
    rng = _rng_tensors()
    if not distributed.is_main():
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    state = optimizer.state_dict()["state"]
    moments = {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}
    every = {"model": copied(model), "optimizer": moments, "random": rng, "best": best, "averaged": averaged}
    for name, tensors in every.items():
        if tensors is not None:
            save_file({key: value.contiguous() for key, value in tensors.items()}, part / f"{name}.safetensors")
    # JSON has no −∞: no evaluation yet is null.
    finite = {**progress.__dict__, "best": progress.best if progress.history else None}
    write_json(part / "state.json", {"identity": identity, "progress": finite, "random": _rng_scalars()})
    files = {path.name: file_digest(path) for path in sorted(part.iterdir())}
    write_json(part / "manifest.json", files)
    final = folder / f"step-{progress.step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def restore(
    folder: Path, model: Model, optimizer: torch.optim.Optimizer, identity: str
) -> tuple[Progress, dict[str, Tensor] | None, dict[str, Tensor] | None] | None:
    """Load the newest whole checkpoint into model, optimizer and random states; None where there is none.

    A damaged checkpoint, or one of another run, is skipped with a warning, and the one before it is taken.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            files = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            damaged = [name for name, digest in files.items() if file_digest(path / name) != digest]
            if damaged:
                raise ValueError(f"{damaged[0]} does not match its manifest")
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            weights = load_file(path / "model.safetensors")
            optimizer_state = load_file(path / "optimizer.safetensors")
            rng = load_file(path / "random.safetensors")
            best, averaged = (
                load_file(path / f"{name}.safetensors") if f"{name}.safetensors" in files else None
                for name in ("best", "averaged")
            )
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("checkpoint %s is damaged (%s): falling back to the one before it", path.name, error)
            continue
        if state["identity"] != identity:
            logger.warning("checkpoint %s is of a run with other data or settings: not used", path.name)
            continue
        model.load_state_dict(weights)
        _restore_optimizer(optimizer, optimizer_state)
        _restore_rng(rng, state["random"])
        saved = state["progress"]
        return Progress(**{**saved, "best": -math.inf if saved["best"] is None else saved["best"]}), best, averaged
    return None
