"""Answers of one model kept on disk, for other runs that ask it the same."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lwc.core import distributed
from lwc.core.arrays import Array
from lwc.core.store import key_of, write_whole
from lwc.models.batches import Batch, Encoded
from lwc.models.forward.predict import predict
from lwc.models.placement import device_of
from lwc.models.types import Model

logger = logging.getLogger(__name__)


def answers_folder(folder: Path, model: Model) -> Path:
    """The folder in ``folder`` for the answers of exactly this teacher."""
    return folder / weights_digest(model)[:24]


def weights_digest(model: Model) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def asked_once(model: Model, encoded: Encoded, rows: Sequence[Batch], folder: Path | None) -> Array:
    """`predict`, or what this very model said of these very batches before, to the bit: it is kept in ``folder``.

    Several processes that share the work ask anew.
    """
    if folder is None or distributed.count() > 1:
        return predict(model, rows)
    batched = [batch.rows.tolist() for batch in rows]
    read = {"ids": encoded.ids, "types": encoded.types, "batches": batched, "device": device_of(model).type}
    path = answers_folder(folder, model) / f"test-{key_of(read)[:32]}.npy"
    with suppress(OSError, EOFError, ValueError):  # not there, or not whole
        found: Array = np.load(path)
        return found
    answers = predict(model, rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, partial(np.save, arr=answers), sync=False)
    except OSError as error:
        logger.warning("%s: the uncut model's answers are not kept: %s", folder, error)
    return answers
