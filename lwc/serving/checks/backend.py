"""Platform and backend of a model: names that Triton knows, and pairs that it takes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from lwc.serving.checks.model import BACKEND_FILES, PLATFORMS, Finding, Model, Repository

# Those of the official images. Other names may be backends of one's own.
_BACKENDS = (
    "onnxruntime", "tensorrt", "python", "pytorch", "tensorflow", "openvino", "dali", "fil", "vllm", "tensorrtllm",
    "identity", "repeat", "square",
)  # fmt: skip
_NEAR = 0.85


def check_backend(model: Model, repository: Repository) -> Iterator[Finding]:
    """The fields ``platform`` and ``backend`` of a model that is no ensemble."""
    del repository
    if model.is_ensemble:
        return
    faults = list(_faults(model))
    if model.backend and model.file_name is None and not faults:
        known = ", ".join(BACKEND_FILES)
        faults = [
            model.note(f"the model files of backend {model.backend!r} are not checked", f"checked are those of {known}")
        ]
    yield from faults


def _faults(model: Model) -> Iterator[Finding]:
    platform, backend = model.config.platform, model.config.backend
    meant = _meant(backend or platform)
    advice = f'write backend: "{meant}"' if meant else f"write backend: ..., not platform: {platform!r}"
    if platform and not backend:
        if platform not in PLATFORMS:
            yield model.error(f"Triton has no platform {platform!r}", advice)
    elif meant and backend not in _BACKENDS:
        yield model.error(
            f"{backend!r} is {'a platform' if backend in PLATFORMS else 'misspelled'}, no backend", advice
        )
    elif platform and PLATFORMS.get(platform) != (backend if backend in PLATFORMS.values() else None):
        yield model.error(
            f"platform {platform!r} and backend {backend!r} do not belong together",
            f"remove the platform, if {backend} is right",
        )


def _meant(name: str) -> str | None:
    """The backend that a name of a backend or platform is, or is near to."""
    near = difflib.get_close_matches(name.casefold(), (*_BACKENDS, *PLATFORMS), n=1, cutoff=_NEAR)
    return PLATFORMS.get(near[0], near[0]) if near else None
