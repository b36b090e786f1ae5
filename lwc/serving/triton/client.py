"""Ask a served text model a few texts: the shortest way from Python to a label."""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, Literal

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from lwc.core.arrays import Array
from lwc.core.errors import ServingError

SECONDS = 60.0


def infer_text(
    url: str, protocol: Literal["http", "grpc"], model: str, texts: Sequence[str], seconds: float = SECONDS
) -> list[tuple[str, Array]]:
    """Label and scores (C,) of each text, all in one request to ``url`` (``host:port``) that waits ``seconds``.

    Raises:
        ServingError: nothing answers there, or the server refuses; its own words are quoted.
    """
    library: Any = tritonclient.http if protocol == "http" else tritonclient.grpc
    raw = np.array([text.encode("utf-8") for text in texts], dtype=np.object_).reshape(-1, 1)
    given = library.InferInput("text", list(raw.shape), "BYTES")
    given.set_data_from_numpy(raw)
    # The two clients name their time limit differently, and one takes it when made, the other when asked.
    made = {"network_timeout": seconds} if protocol == "http" else {}
    asked = {} if protocol == "http" else {"client_timeout": seconds}
    try:
        with library.InferenceServerClient(url, **made) as client:
            result = client.infer(model, [given], **asked)
    except InferenceServerException as error:
        raise ServingError(f"{model} at {url} ({protocol}): {error.message()}") from error
    except (OSError, HTTPException) as error:  # the latter where the connection is closed before the answer came
        raise ServingError(f"nothing answers at {url} ({protocol}): {error}", "start it with `lwc serve`") from error
    labels, scores = result.as_numpy("label"), result.as_numpy("scores")
    return [(label.decode("utf-8"), row) for label, row in zip(labels[:, 0], scores, strict=True)]
