"""Ask a served text model about several texts in one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from lwc.serving.triton.client import Connection


def infer_text(
    url: str, protocol: Literal["http", "grpc"], model: str, texts: Sequence[str], seconds: float = 60.0
) -> list[tuple[str, Any]]:
    """Label and scores (C,) of each text; raises `Refused`."""
    raw = np.array([text.encode("utf-8") for text in texts], dtype=np.object_).reshape(-1, 1)
    with Connection(url, protocol, seconds) as connection:
        found = connection.infer(model, connection.inputs({"text": raw}), ("label", "scores"))
    return [(label.decode("utf-8"), row) for label, row in zip(found["label"][:, 0], found["scores"], strict=True)]
