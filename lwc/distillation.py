"""The recover stage: the uncut model teaches the cut one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwc.artifacts import write_json
from lwc.data.splits import load_split
from lwc.errors import LwcError
from lwc.losses import distillation_loss, hidden_loss, label_loss
from lwc.models.batches import Batch, Encoded, batches, encode
from lwc.models.families import block_list, family_of, hidden_states
from lwc.models.load import load_classifier, load_tokenizer, save_checkpoint
from lwc.recipe import Recipe, Recovery
from lwc.training import fit


def matched_blocks(kept: Sequence[int], count: int) -> list[int]:
    """For each kept block, the teacher block whose output it should give.

    The student's i-th block stands in for itself and for the removed blocks after it: it is matched with the
    teacher block just before the next kept one, the last with the teacher's last.
    """
    return [following - 1 for following in [*kept[1:], count]]


class BlockOutputs:
    """Keeps the outputs (B, T, D) of chosen blocks of a model while it is entered."""

    def __init__(self, model: Any, blocks: Sequence[int]) -> None:
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

    def _keep(self, slot: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._outputs[slot] = hidden_states(output)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self) -> list[Tensor]:
        """The outputs of the last forward pass, in the order of the blocks."""
        taken, self._outputs = self._outputs, {}
        return [taken[slot] for slot in sorted(taken)]


_LARGEST = float(np.finfo(np.float16).max)


def _check_space(folder: Path, needed: int) -> None:
    # A memory-mapped file that meets a full disk ends the process with a bus error: ask before.
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LwcError(
            f"{folder}: the teacher's hidden states need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            "free some space, or set recover.hidden_weight: 0",
        )


class TeacherOutputs:
    """Logits and matched hidden states of the teacher over the train rows, computed once.

    Hidden states lie in one file a block, real tokens only, as float16: a tenth of the cost of running the teacher in
    every epoch, and the rounding (2^-11) is far below what distillation resolves.
    """

    def __init__(self, teacher: Any, blocks: Sequence[int], encoded: Encoded, folder: Path, hidden: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        lengths = np.array([len(ids) for ids in encoded.ids])
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._logits = torch.zeros(len(encoded), teacher.config.num_labels)
        self._files: list[np.memmap[Any, np.dtype[np.float16]]] = []
        if hidden:
            shape = (int(lengths.sum()), int(teacher.config.hidden_size))
            _check_space(folder, 2 * shape[0] * shape[1] * len(blocks))
            self._files = [
                np.memmap(folder / f"block-{block}.f16", dtype=np.float16, mode="w+", shape=shape) for block in blocks
            ]
        groups = batches(encoded, np.zeros(len(encoded)), 32, length_bucketed=True, seed=None)
        device = next(teacher.parameters()).device
        with torch.inference_mode(), BlockOutputs(teacher, blocks) as capture:
            for batch in groups:
                inputs = {name: value.to(device) for name, value in batch.inputs.items()}
                self._logits[batch.rows] = teacher(**inputs).logits.float().cpu()
                for file, output in zip(self._files, capture.take(), strict=False):
                    self._store(file, batch, output.float().cpu().numpy())

    def _store(self, file: np.ndarray[Any, Any], batch: Batch, output: np.ndarray[Any, Any]) -> None:
        for position, row in enumerate(batch.rows.tolist()):
            start, end = self._starts[row], self._starts[row + 1]
            states = output[position, : end - start]
            if not np.abs(states).max() < _LARGEST:
                raise LwcError("the teacher's hidden states do not fit float16", "set recover.hidden_weight: 0")
            file[start:end] = states

    def logits(self, batch: Batch) -> Tensor:
        """Teacher logits (B, C) of a batch's rows."""
        return self._logits[batch.rows].to(batch.labels.device)

    def hidden(self, batch: Batch) -> list[Tensor]:
        """Teacher hidden states (B, T, D) of each matched block, zero where there is padding."""
        width = batch.mask.shape[1]
        found = []
        for file in self._files:
            padded = np.zeros((len(batch), width, file.shape[1]), dtype=np.float32)
            for position, row in enumerate(batch.rows.tolist()):
                start, end = self._starts[row], self._starts[row + 1]
                padded[position, : end - start] = file[start:end]
            found.append(torch.from_numpy(padded).to(batch.labels.device))
        return found


def recovery_loss(
    student: Any, teacher: TeacherOutputs, settings: Recovery, capture: BlockOutputs, batch: Batch
) -> Tensor:
    """Weighted sum of logit distillation, hidden-state distance (mean over kept blocks) and label loss."""
    capture.take()
    logits = student(**batch.inputs).logits.float()
    outputs = capture.take()
    loss = settings.logits_weight * distillation_loss(logits, teacher.logits(batch), settings.temperature)
    if settings.hidden_weight:
        pairs = zip(outputs, teacher.hidden(batch), strict=True)
        distances = [hidden_loss(mine.float(), theirs, batch.mask) for mine, theirs in pairs]
        loss = loss + settings.hidden_weight * torch.stack(distances).mean()
    if settings.label_weight:
        loss = loss + settings.label_weight * label_loss(logits, batch.labels)
    return loss


def recover(
    recipe: Recipe,
    data_dir: Path,
    teacher_dir: Path,
    student_dir: Path,
    selection: Mapping[str, Any],
    out: Path,
    scratch: Path,
    progress: Callable[[str], None],
) -> None:
    """Recovery distillation of the cut model on the train split; writes ``model/`` and ``metrics.json``.

    Logits as in Hinton et al. 2015; hidden states as in Sun et al. 2019 (patient distillation), matched by
    `matched_blocks` and measured in units of the teacher's own size.
    """
    settings = recipe.recover
    teacher, student = load_classifier(teacher_dir / "model"), load_classifier(student_dir / "model")
    tokenizer = load_tokenizer(student_dir / "model")
    train, validation = load_split(data_dir, "train"), load_split(data_dir, "validation")
    encoded = encode(tokenizer, train.texts, recipe.model.max_length)
    kept = [int(block) for block in selection["kept"]]
    progress("teacher outputs")
    blocks = matched_blocks(kept, int(selection["blocks_before"]))
    hidden = settings.hidden_weight > 0
    if torch.cuda.is_available():
        teacher.to("cuda")
    outputs = TeacherOutputs(teacher, blocks, encoded, scratch / "teacher", hidden)
    with BlockOutputs(student, range(len(kept))) as capture:
        result = fit(
            student,
            encoded,
            train.labels,
            encode(tokenizer, validation.texts, recipe.model.max_length),
            validation.labels,
            settings,
            lambda model, batch: recovery_loss(model, outputs, settings, capture, batch),
            recipe.seed,
            scratch / "checkpoints",
            progress,
        )
    save_checkpoint(student, tokenizer, out / "model")
    write_json(out / "metrics.json", {**asdict(result), "n_train": len(encoded), "matched_teacher_blocks": blocks})
