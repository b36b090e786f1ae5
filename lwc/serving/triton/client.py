"""Ask a served model through Triton's own clients."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, Literal

import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from lwc.core.arrays import Array
from lwc.tasks.endpoint import Answer, Question, Tensor, Wire, WireError

Protocol = Literal["http", "grpc"]
SECONDS = 60.0
# A proxy of the environment must not stand between us and the server, and users must not share a connection.
_CHANNEL = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


class Refused(Exception):
    """A request without an answer: ``status`` is that of HTTP, if there is one; ``broken``: the connection failed."""

    def __init__(self, words: str, status: int | None = None, broken: bool = False) -> None:
        super().__init__(words)
        self.status, self.broken = status, broken


class Connection:
    """A connection of its own to a server; ``url`` is ``host:port``, requests wait ``seconds``."""

    def __init__(self, url: str, protocol: Protocol, seconds: float = SECONDS) -> None:
        self.protocol = protocol
        self._library: Any = tritonclient.http if protocol == "http" else tritonclient.grpc
        # The two clients name their time limit differently, and one takes it when made, the other when asked.
        if protocol == "http":
            limits: dict[str, Any] = {"connection_timeout": seconds, "network_timeout": seconds}
            self._limit: dict[str, float] = {}
        else:
            limits, self._limit = {"channel_args": _CHANNEL}, {"client_timeout": seconds}
        self._client = self._library.InferenceServerClient(url, **limits)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def inputs(self, arrays: dict[str, Array]) -> list[Any]:
        """Arrays as the client's inputs, which any connection of this protocol may send, again and again."""
        made = []
        for name, array in arrays.items():
            one = self._library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            one.set_data_from_numpy(array)
            made.append(one)
        return made

    def infer(self, model: str, inputs: list[Any], outputs: Sequence[str]) -> dict[str, Array]:
        """The outputs of one request.

        Raises:
            Refused: the server refuses, the connection broke, or what came cannot be read.
        """
        wanted = [self._library.InferRequestedOutput(name) for name in outputs]
        try:
            result = self._client.infer(model, inputs, outputs=wanted, **self._limit)
            found = {name: result.as_numpy(name) for name in outputs}
        except InferenceServerException as error:
            raise _refusal(error, self.protocol) from error
        except (OSError, HTTPException) as error:  # the latter where the connection is closed before the answer came
            raise Refused(f"{type(error).__name__}: {error!s:.200}", broken=True) from error
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise Refused(f"the answer cannot be read: {error!s:.200}") from error
        missing = sorted(name for name, array in found.items() if array is None)
        if missing:
            raise Refused(f"the answer lacks the outputs {missing}")
        return found

    def ask(self, model: str, wire: Wire, question: Question) -> Answer:
        """The answer to one question.

        Raises:
            Refused: as `infer`, or the outputs are no answer.
        """
        return self.read(model, wire, self.inputs(wire.encode(question)))

    def read(self, model: str, wire: Wire, inputs: list[Any]) -> Answer:
        """`ask` with inputs that were encoded before."""
        try:
            return wire.decode(self.infer(model, inputs, wire.outputs))
        except WireError as error:
            raise Refused(str(error)) from error

    def describe(self, model: str) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and outputs of a model.

        Raises:
            Refused: the server does not know it, or what answers is no Triton server.
        """
        try:
            as_json = {"as_json": True} if self.protocol == "grpc" else {}
            told = self._client.get_model_metadata(model, **as_json, **self._limit)
            inputs, outputs = (
                [Tensor(str(t["name"]), str(t["datatype"]), tuple(int(d) for d in t["shape"])) for t in told[side]]
                for side in ("inputs", "outputs")
            )
        except InferenceServerException as error:
            raise Refused(str(error.message())) from error
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise Refused(f"no Triton server answers there ({error})", broken=True) from error
        return inputs, outputs


def _refusal(error: InferenceServerException, protocol: Protocol) -> Refused:
    """``HTTP 400: …`` or ``gRPC INVALID_ARGUMENT: …``, in the server's own words."""
    code = str(error.status()).removeprefix("StatusCode.")
    words = f"{'HTTP' if protocol == 'http' else 'gRPC'} {code}: {error.message():.200}"
    return Refused(words, int(code) if code.isdigit() else None, broken=code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"))
