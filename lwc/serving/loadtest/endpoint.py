"""The served model a load test talks to: address, protocol and model name, checked before anything is sent."""

from __future__ import annotations

import pkgutil
import re
import socket
from dataclasses import dataclass
from typing import get_args
from urllib.parse import urlsplit

from lwc.core.errors import USAGE, RecipeError, ServingError
from lwc.recipe import TASKS
from lwc.serving.loadtest.process import Protocol, check_installed
from lwc.serving.triton.counters import parse_counts, read_page
from lwc.tasks.endpoint import Tensor, Wire

CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Endpoint:
    """A model at a server that answers. ``address`` and ``metrics`` (where known) are ``host:port``."""

    address: str
    protocol: Protocol
    model: str
    wire: Wire
    metrics: str | None = None


def connect(
    url: str,
    protocol: Protocol,
    model: str,
    metrics_url: str | None = None,
    label_output: str | None = None,
    wire: Wire | None = None,
) -> Endpoint:
    """The endpoint at ``url``, which is ``http://host:port`` or ``host:port``; ``metrics_url`` likewise.

    Without ``wire`` the server's description of the model says how it is asked, and ``label_output`` which output is
    the label.

    Raises:
        RecipeError: protocol, URL or model name are wrong, or no task has a model that is asked like this one.
        MissingDependency: what gRPC needs is not installed.
        ServingError: nothing listens there, it does not know the model, or the metrics cannot be read.
    """
    if protocol not in get_args(Protocol):
        raise RecipeError(f"{protocol!r} is not a protocol: it is http or grpc", "choose one of these")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model):
        raise RecipeError(f"{model!r} is not a model name", "use letters, digits, '.', '_' and '-'")
    address = parse_address(url, "http://127.0.0.1:8000" if protocol == "http" else "127.0.0.1:8001")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ServingError(
            f"nothing answers at {address}: {error}", "start the server (lwc serve) or check the address", USAGE
        ) from error
    check_installed()
    wire = wire or _wire(address, protocol, model, label_output)
    metrics = None
    if metrics_url is not None:
        metrics = parse_address(metrics_url.removesuffix("/metrics"), "127.0.0.1:8002")
        parse_counts(read_page(metrics), metrics)
    return Endpoint(address, protocol, model, wire, metrics)


def wires() -> dict[str, type[Wire]]:
    """The wires of all tasks by import path."""
    return {task.wire: pkgutil.resolve_name(task.wire) for task in TASKS}


def _wire(address: str, protocol: Protocol, model: str, label_output: str | None) -> Wire:
    from lwc.serving.triton.client import Connection, Refused

    with Connection(address, protocol, CONNECT_SECONDS) as connection:
        try:
            inputs, outputs = connection.describe(model)
        except Refused as error:
            raise ServingError(
                f"{model} at {address}: {error}",
                "check the name, and that the port serves this protocol (by default HTTP 8000, gRPC 8001)",
                USAGE,
            ) from error
    return fitting_wire(model, inputs, outputs, label_output)


def fitting_wire(model: str, inputs: list[Tensor], outputs: list[Tensor], label_output: str | None = None) -> Wire:
    """The wire of a served model by its description.

    Raises:
        RecipeError: no task has one for it, or it has no such label.
    """
    known = wires().values()
    for kind in known:
        wire = kind.fitting(model, inputs, outputs, label_output)
        if wire is not None:
            return wire
    told = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in inputs)
    raise RecipeError(
        f"{model} takes {told or 'nothing'}: a load test sends {', or '.join(dict.fromkeys(k.takes for k in known))}",
        "name the model that clients call; of a repository made by lwc it is the one without _tokens or _graph",
    )


def parse_address(url: str, example: str) -> str:
    """``host:port`` of a URL; a bare ``host:port`` is taken as it is.

    Raises:
        RecipeError: it is no address of a server; the hint shows ``example``.
    """
    parts = urlsplit(url if "://" in url else f"//{url}")
    if parts.scheme not in ("", "http", "grpc"):
        raise RecipeError(f"{url}: {parts.scheme}:// is not supported", "use http://host:port or host:port")
    try:
        port = parts.port
    except ValueError as error:
        raise RecipeError(f"{url}: {error}", f"give host and port, like {example}") from error
    if not parts.hostname or port is None or parts.path not in ("", "/") or parts.query or parts.username:
        raise RecipeError(f"{url!r} is not the address of a server", f"give host and port, like {example}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"
