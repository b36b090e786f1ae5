"""`lwc.remove_blocks`: the same model with fewer blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import index
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import AutoTokenizer

from lwc.api.folders import new_folder
from lwc.api.models import ModelLike, model_of, tokenizer_folder, unwrapped
from lwc.core.errors import LwcError
from lwc.models.families import family_of
from lwc.models.loaded import reading
from lwc.models.surgery import parameter_counts
from lwc.models.surgery import remove_blocks as removed_from
from lwc.models.tokenizer_files import check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def remove_blocks(model: ModelLike, blocks: Iterable[int]) -> PreTrainedModel:
    """A copy of a model without some of its blocks (depth pruning; Sajjad et al. 2023).

    The result is an ordinary model of transformers: its config, per-block lists and layer numbers fit the blocks that
    are left, and a saved copy loads with ``from_pretrained`` where lwc is not installed. It usually answers badly until
    it has been recovered (`lwc.recover`).

    Args:
        model: a model of transformers, or a folder, hub id or `RecoveryResult`.
        blocks: numbers of the blocks to remove, from 0; those of `Importance.lowest`, for example.

    Raises:
        LwcError: a block does not exist or cannot be removed, or none would be left.
    """
    whole = model_of(model)
    smaller = removed_from(whole, family_of(whole), {index(block) for block in blocks})
    return unwrapped(cast("PreTrainedModel", smaller))


def cut_folder(source: str, blocks: Collection[int], folder: str | PathLike[str]) -> dict[str, Any]:
    """Write the model of a folder or hub id without these blocks, with its tokenizer, to a new folder.

    Returns:
        ``kept`` and ``removed`` blocks, ``blocks`` and ``params`` before and after, and whether there is a
        ``tokenizer``.

    Raises:
        LwcError: as `remove_blocks`, or the folder is not empty.
    """
    whole = model_of(source)
    family = family_of(whole)
    counts = parameter_counts(whole, family)
    with new_folder(Path(folder)) as made:
        smaller = remove_blocks(whole, blocks)
        smaller.save_pretrained(made)
        tokenizer = _tokenizer_saved(tokenizer_folder(source), made)
    kept = [block for block in range(len(counts.per_block)) if block not in blocks]
    return {
        "removed": sorted(set(blocks)),
        "kept": kept,
        "blocks": {"before": len(counts.per_block), "after": len(kept)},
        "params": {"before": counts.total, "after": counts.without(set(blocks))},
        "tokenizer": tokenizer,
    }


def _tokenizer_saved(source: Path, folder: Path) -> bool:
    """Save the tokenizer of ``source`` unchanged, if it has one."""
    try:
        check_tokenizer(source)
    except LwcError:
        return False
    with reading(source):
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return True
