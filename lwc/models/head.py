"""The classification head that a checkpoint brings: whether there is one, and which of its outputs is which class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwc.core.errors import MissingDependency, ModelError
from lwc.models.checkpoint import check_checkpoint
from lwc.models.families import CLASSIFICATION
from lwc.models.head_labels import class_names, differing, match_labels, named_as, output_names, unnamed
from lwc.models.saved import CLASSIFIER_SUFFIX, Saved
from lwc.models.source import resolve_source
from lwc.recipe import FromConfig, Labels, Pretrained


@dataclass(frozen=True)
class Head:
    """A trained head: the checkpoint it is of, and the names of its outputs.

    ``stays``: it is served as it is, not trained further.
    """

    place: str
    outputs: Sequence[str]
    stays: bool = False

    def labels(self, labels: Labels) -> Labels:
        """The labels with the head's classes as their names, in its order, where the recipe gives no names.

        Raises:
            ModelError: the classes are known, and not those of the head.
        """
        found, known = class_names(self.outputs, labels), labels.known()
        if known is not None and match_labels(found, known).order is None:
            raise self.differs(known)
        if len(set(found)) < len(found):
            raise ModelError(
                f"{self.place}: data.labels.map gives two outputs of its head one class: {', '.join(found)}",
                "give each output a class of its own",
            )
        if labels.names is not None:
            return labels
        return labels.model_copy(update={"names": tuple(named_as(found) if unnamed(found) else found)})

    def order(self, labels: Labels, classes: Sequence[str]) -> list[int]:
        """For each class the output that stands for it.

        Raises:
            ModelError: these are not the classes of the head.
        """
        order = match_labels(class_names(self.outputs, labels), classes).order
        if order is None:
            raise self.differs(classes)
        return order

    def differs(self, classes: Sequence[str]) -> ModelError:
        """The error that shows both sides."""
        return ModelError(*differing(self.place, self.outputs, classes, may_be_new=not self.stays))


def head_of(model: Pretrained | FromConfig, stays: bool = False) -> Head | None:
    """The checkpoint's head; None where it has none, or the recipe asks for a new one. Loads no weights.

    Raises:
        ModelError: no usable checkpoint.
        MissingDependency: a package or hub id is not there.
    """
    if not isinstance(model, Pretrained) or model.head == "new":
        return None
    folder = Path(resolve_source(model.source))
    if not folder.is_dir():
        return _on_hub(model, stays)
    check_checkpoint(folder)
    saved = Saved(folder, CLASSIFICATION)
    return None if saved.head is None else Head(model.source, output_names(saved.config, saved.head[1]), stays)


def _on_hub(model: Pretrained, stays: bool) -> Head | None:
    """By the ``config.json`` alone: the weights are large, and downloaded to be trained."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        path = hf_hub_download(model.source, "config.json", revision=model.revision)
    except (OSError, HFValidationError) as error:
        raise MissingDependency(
            f"{model.source}: not a local folder, and not reachable on the hub: {str(error).splitlines()[0]}",
            "download it and give the folder's path, or use package:<module>",
        ) from error
    outputs = declared_outputs(json.loads(Path(path).read_bytes()), model.source)
    return None if outputs is None else Head(model.source, outputs, stays)


def declared_outputs(config: Mapping[str, Any], place: str) -> list[str] | None:
    """Names of the outputs of the head that a ``config.json`` declares; None where it declares none.

    Raises:
        ModelError: it contradicts itself.
    """
    if not any(str(name).endswith(CLASSIFIER_SUFFIX) for name in config.get("architectures") or ()):
        return None
    try:
        return output_names(config, config.get("num_labels", 2))
    except ValueError as error:
        raise ModelError(f"{place}: config.json: {error}", "name another checkpoint") from error
