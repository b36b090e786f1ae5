"""The uncut model as a teacher: asked as it goes, or once, its answers kept on disk."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from lwc.core import distributed
from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.core.store import canonical, key_of, read_json, write_json, write_whole
from lwc.models.attention import fused_attention
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.families import BlockOutput, block_list, family_of, hidden_states
from lwc.models.forward.kept import weights_digest
from lwc.models.placement import device_of
from lwc.models.types import Model, Output

logger = logging.getLogger(__name__)


class BlockOutputs:
    """Keeps the outputs (B, T, D) of chosen blocks of a model while it is entered."""

    def __init__(self, model: Model, blocks: Sequence[int]) -> None:
        modules = block_list(model, family_of(model))
        self._modules = [modules[index] for index in blocks]
        self._stack = ExitStack()
        # One slot a block, overwritten by every pass: hooks also see evaluation, which nobody takes from.
        self._outputs: dict[int, Tensor] = {}

    def __enter__(self) -> BlockOutputs:
        for slot, module in enumerate(self._modules):
            handle = module.register_forward_hook(partial(self._keep, slot))
            self._stack.callback(handle.remove)
        return self

    def _keep(self, slot: int, _module: nn.Module, _inputs: tuple[Tensor, ...], output: BlockOutput) -> None:
        self._outputs[slot] = hidden_states(output)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self) -> list[Tensor]:
        """The outputs of the last forward pass, in the order of the blocks."""
        taken, self._outputs = self._outputs, {}
        return [taken[slot] for slot in sorted(taken)]


def attention_maps(output: Output, blocks: Sequence[int], model_type: str) -> list[Tensor]:
    """Attention probabilities (B, H, T, T) of these blocks.

    Raises:
        ModelError: the model gives none.
    """
    maps = getattr(output, "attentions", None) or ()
    found = [maps[block].float() for block in blocks if block < len(maps) and maps[block] is not None]
    if len(found) < len(blocks):
        raise ModelError(f"{model_type} does not return attention maps", "set recover.attention_weight: 0")
    return found


@dataclass(frozen=True)
class Taught:
    """What the teacher says of a batch: logits (B, C), the matched blocks' hidden states (B, T, D), attention maps."""

    logits: Tensor
    hidden: list[Tensor]
    attention: list[Tensor] = field(default_factory=list)


Teacher = Callable[[Batch], Taught]
"""A batch in, what the uncut model says of it out."""
Ask = Callable[[Model, Batch, bool], tuple[Tensor, Output]]
"""``(model, batch, attention) → (logits that recovery compares, the model's output)``."""


class LiveTeacher:
    """Asked as it goes: the rows differ in every epoch where they are augmented."""

    def __init__(self, model: Model, blocks: Sequence[int], ask: Ask, attention: bool = False) -> None:
        self.model, self.blocks = model.eval(), list(blocks)
        self._ask, self._attention = ask, attention
        self._capture = BlockOutputs(model, blocks)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Taught:
        with self._capture:
            logits, output = self._ask(self.model, batch, self._attention)
            hidden = [state.float() for state in self._capture.take()]
        maps = attention_maps(output, self.blocks, self.model.config.model_type) if self._attention else []
        return Taught(logits, hidden, maps)

    def of_blocks(self, blocks: Sequence[int]) -> LiveTeacher:
        """The same teacher, asked for the outputs of other blocks."""
        return LiveTeacher(self.model, blocks, self._ask, self._attention)


class RememberedTeacher:
    """`LiveTeacher` that keeps what it said of a batch on disk, for other cut models that are taught the same batches.

    The outputs of all blocks are kept (of none where none is wanted), since other cuts are matched with others. Answers
    are stored under the digest of what the teacher reads and are exact: results are identical on a hit or miss. Nothing
    more is written once ``folder`` would contain more than ``most`` bytes.

    Args:
        folder: of this teacher alone, see `answers_folder`; it may vanish or be filled by others at any time.
    """

    def __init__(self, teacher: LiveTeacher, folder: Path, most: int) -> None:
        count = len(block_list(teacher.model, family_of(teacher.model)))
        self._live = teacher.of_blocks(range(count) if teacher.blocks else [])
        self._blocks, self._folder, self._most = teacher.blocks, folder, most
        self._held = 0
        for path in folder.glob("*.npy"):
            with suppress(FileNotFoundError):
                self._held += path.stat().st_size

    def __call__(self, batch: Batch) -> Taught:
        device = batch.labels.device
        read = {name: batch.inputs[name].cpu().numpy() for name in sorted(batch.inputs)}
        shapes = {name: list(value.shape) for name, value in read.items()}
        digest = hashlib.sha256(canonical([shapes, torch.is_autocast_enabled(device.type)]).encode())
        for value in read.values():
            digest.update(value.tobytes())
        place = self._folder / digest.hexdigest()[:32]
        try:
            logits, *hidden = (
                torch.from_numpy(np.load(f"{place}-{part}.npy")).to(device) for part in ("logits", *self._blocks)
            )
        except (OSError, EOFError, ValueError):  # not there, or not whole
            taught = self._live(batch)
            self._keep(place, taught)
            return Taught(taught.logits, [taught.hidden[block] for block in self._blocks])
        return Taught(logits, hidden)

    def _keep(self, place: Path, taught: Taught) -> None:
        parts = {"logits": taught.logits, **{str(block): states for block, states in enumerate(taught.hidden)}}
        size = sum(part.nbytes for part in parts.values())
        if self._held + size > self._most:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name, part in parts.items():
                write_whole(Path(f"{place}-{name}.npy"), partial(np.save, arr=part.cpu().numpy()), sync=False)
        except OSError as error:
            logger.warning("%s: the uncut model's answers are kept no longer: %s", self._folder, error)
            self._most = 0
            return
        self._held += size


class StoredTeacher:
    """Answers of the teacher to every row of train, float32, memory-mapped: one pass instead of one an epoch.

    ``hidden-<slot>`` contains the states of all real tokens (N_tokens, D), row after row. Padding gets zeros, which
    no loss reads. Equal to `LiveTeacher` up to rounding: a row's answer hangs a little on its batch's padding.
    """

    def __init__(self, folder: Path, lengths: Array) -> None:
        self._logits: Array = np.load(folder / "logits.npy", mmap_mode="r")
        count = len(list(folder.glob("hidden-*.npy")))
        self._hidden: list[Array] = [np.load(folder / f"hidden-{slot}.npy", mmap_mode="r") for slot in range(count)]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

    def __call__(self, batch: Batch) -> Taught:
        rows, device = batch.rows.numpy(), batch.labels.device
        logits = torch.from_numpy(np.asarray(self._logits[rows]))
        shape = tuple(batch.mask.shape)
        states = []
        for stored in self._hidden:
            state = np.zeros((*shape, stored.shape[1]), dtype=np.float32)
            for place, row in enumerate(rows):
                start, end = self._starts[row], self._starts[row + 1]
                state[place, : end - start] = stored[start:end]
            states.append(torch.from_numpy(state).to(device))
        return Taught(logits.to(device), states)


def stored_bytes(train: Encoded, slots: int, width: int) -> int:
    """What `StoredTeacher` takes on disk: 4 bytes a number."""
    return 4 * sum(len(ids) for ids in train.ids) * slots * width


def store_answers(teacher: LiveTeacher, train: Encoded, folder: Path, progress: Callable[[str], None]) -> StoredTeacher:
    """Ask the teacher once for every row of train, or find the answers of an earlier, interrupted run.

    Written aside and renamed when whole, by the main process. The caller removes ``folder`` when recovery is done.
    """
    distributed.from_main(lambda: _store(teacher, train, folder, progress))
    return StoredTeacher(folder, np.array([len(ids) for ids in train.ids]))


def _store(teacher: LiveTeacher, train: Encoded, folder: Path, progress: Callable[[str], None]) -> None:
    identity = key_of({"ids": train.ids, "blocks": teacher.blocks, "teacher": weights_digest(teacher.model)})
    marker, aside = folder / "answers.json", folder.with_name(folder.name + ".part")
    if marker.is_file() and read_json(marker) == identity:
        return
    for old in (folder, aside):
        shutil.rmtree(old, ignore_errors=True)
    aside.mkdir(parents=True)
    starts = np.cumsum([0, *(len(ids) for ids in train.ids)])
    model, device = teacher.model, device_of(teacher.model)
    groups = batches(train, np.zeros(len(train), dtype=np.int64), 32, length_bucketed=True, seed=None)
    shape = (int(starts[-1]), int(model.config.hidden_size))
    states = [
        open_memmap(aside / f"hidden-{slot}.npy", "w+", np.float32, shape)  # type: ignore[no-untyped-call,unused-ignore]
        for slot in range(len(teacher.blocks))
    ]
    logits: Array = np.zeros((len(train), int(model.config.num_labels)), dtype=np.float32)
    with fused_attention(model):
        for number, batch in enumerate(groups, start=1):
            progress(f"the teacher answers {number}/{len(groups)}")
            taught = teacher(batch.to(device))
            logits[batch.rows.numpy()] = taught.logits.cpu().numpy()
            for stored, state in zip(states, taught.hidden, strict=True):
                values = state.cpu().numpy()
                for place, row in enumerate(batch.rows.numpy()):
                    stored[starts[row] : starts[row + 1]] = values[place, : starts[row + 1] - starts[row]]
    for stored in states:
        stored.flush()
    np.save(aside / "logits.npy", logits)
    write_json(aside / "answers.json", identity)
    aside.replace(folder)
