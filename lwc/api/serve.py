"""`lwc.serve`: a Triton repository on this machine, and answers from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from lwc.api.settings import told
from lwc.core.errors import ServingError
from lwc.core.progress import Say
from lwc.pipeline.preflight import require_serving


@dataclass(frozen=True)
class Answer:
    """What a served model answers to a text.

    Attributes:
        label: name of the most likely class; of a regression the nearest of its numbers.
        score: the class's probability, 0 to 1; of a regression the number itself.
        scores: probability of each class by name; empty for a regression.
    """

    label: str
    score: float
    scores: dict[str, float] = field(repr=False)


class Server:
    """The embedded Triton server with one repository, running inside a ``with`` block, or from `start` to `stop`.

    It listens on 127.0.0.1 only, and is for development and tests; production uses the official image.
    """

    def __init__(
        self,
        repository: str | PathLike[str],
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        startup_seconds: float = 60.0,
        progress: Say | None = None,
    ) -> None:
        require_serving(server=True)
        from lwc.serving.triton.foreground import check_servable
        from lwc.serving.triton.server import TritonServer

        self.repository = Path(repository)
        self._say = told(progress)
        check_servable(self.repository, self._say)
        self._server = TritonServer(self.repository, http_port, grpc_port, metrics_port, startup_seconds)

    @property
    def models(self) -> list[str]:
        """Names of the models that clients call."""
        from lwc.serving.triton.config import parse

        configs = [parse(path.read_text(encoding="utf-8")) for path in sorted(self.repository.glob("*/config.pbtxt"))]
        fronts = [config.name for config in configs if config.backend == "python"]
        return fronts or [config.name for config in configs]

    @property
    def http_url(self) -> str:
        """``127.0.0.1:port`` of the HTTP endpoint."""
        return self._server.http_url

    @property
    def grpc_url(self) -> str:
        """``127.0.0.1:port`` of the gRPC endpoint."""
        return self._server.grpc_url

    def start(self) -> Server:
        """Start the server and wait until it is ready. The first start on a machine makes the server's environment.

        Raises:
            LwcError: it does not start; the message quotes its log.
        """
        from lwc.serving.triton.environment import ensure

        ensure(self._say)
        self._server.__enter__()
        return self

    def stop(self) -> None:
        """Stop the server and everything it started. Safe to call again."""
        self._server.stop()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def classify(self, texts: Iterable[str | Mapping[str, str]], model: str | None = None) -> list[Answer]:
        """One answer a text, in order.

        Args:
            texts: texts as users write them; for a model trained on titles and bodies also ``{"title": …, "text": …}``.
            model: name of the model, if the repository has several that clients call.

        Raises:
            LwcError: the server refuses a text, or the model takes no texts.
        """
        from lwc.serving.loadtest.endpoint import connect
        from lwc.serving.triton.client import Connection, Refused

        if isinstance(texts, str):
            raise ServingError("texts is one text, not a list", "pass [text]")
        names = self.models
        if model is None and len(names) != 1:
            raise ServingError(f"the repository has the models {', '.join(names)}", "name one with model=…")
        name = model or names[0]
        wire: Any = connect(self.http_url, "http", name).wire
        if getattr(wire, "label", None) is None:
            raise ServingError(f"{name} does not answer texts with labels", "ask it with a Triton client")
        labels = self._labels(name)
        found = []
        with Connection(self.http_url, "http") as connection:
            for place, text in enumerate(texts):
                question: Any = text if isinstance(text, str) else dict(text)
                try:
                    outputs = connection.infer(name, connection.inputs(wire.encode(question)), wire.outputs)
                    label = wire.decode(outputs)
                except (Refused, ValueError) as error:
                    raise ServingError(f"text {place}: {error}", "correct the text, or see the server's log") from error
                scores = [float(one) for one in outputs[wire.scores].ravel()] if wire.scores else []
                each = dict(zip(labels, scores, strict=True)) if len(labels) == len(scores) else {}
                found.append(Answer(str(label), max(scores, default=float("nan")), each))
        return found

    def _labels(self, model: str) -> list[str]:
        file = self.repository / model / "labels.txt"
        return file.read_text(encoding="utf-8").removesuffix("\n").split("\n") if file.is_file() else []


def serve(
    repository: str | PathLike[str],
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
    startup_seconds: float = 60.0,
    progress: Say | None = None,
) -> Server:
    """A real Triton server on this machine without Docker, for a repository of `lwc.package` or `lwc run`.

        >>> with lwc.serve("triton_models/reviews") as server:  # doctest: +SKIP
        ...     server.classify(["works well"])
        [Answer(label='positive', score=0.98)]

    Args:
        repository: the repository's folder.
        http_port: 0 picks a free port, as for the two that follow.
        grpc_port: port of gRPC.
        metrics_port: port of Triton's metrics.
        startup_seconds: how long to wait until all models are ready.
        progress: called with what the user should know; by default the logger ``lwc`` at level INFO.

    Raises:
        LwcError: the folder is no repository, or Triton would refuse it; the server's packages are missing.
    """
    return Server(repository, http_port, grpc_port, metrics_port, startup_seconds, progress)
