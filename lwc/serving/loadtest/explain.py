"""Why the latency of a load test is what it is, in sentences made of its figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of one core: above it a Python process has little left to send requests on time.
BUSY_GENERATOR = 0.85
_SHOWN = 5
# Part of the mean latency → its name, and what to say where it is the largest.
_PARTS = {
    "client_wait": (
        "waiting to be sent",
        "most of it is waiting for one of {users} connections: requests come faster than they are answered",
    ),
    "queue": (
        "in the queue of the model",
        "most of it is queueing: the model is busy with other requests and near its limit",
    ),
    "compute": (
        "computing",
        "most of it is computing: fewer blocks, int8 or more cores shorten it; larger batches lengthen it",
    ),
    "rest": (
        "on the wire and in the load generator",
        "most of it is spent outside of the model: network, protocol, or cores shared with the load generator",
    ),
}


def explain(result: Mapping[str, Any]) -> list[str]:
    """Sentences on where the time of a request went and what held it up; empty where nothing is known of it."""
    said: list[str] = []
    server = result.get("server") or {}
    mean = server.get("mean_ms")
    if mean is not None:
        called = server["models"][result["model"]]
        # Triton counts what ended in the window, the test what began in it: what is left may come out below 0.
        parts = " + ".join(f"{mean[key]:.1f} {name}" for key, (name, _) in _PARTS.items() if mean[key] >= 0)
        said.append(f"mean latency {mean['total']:.1f} ms = {parts}; {called['mean_batch']:.1f} requests an execution")
        said.append(_PARTS[max(_PARTS, key=lambda key: mean[key])][1].format(users=result["users"]))
    elif result.get("load") == "open_loop" and "latency_ms" in result:
        wait, total = result["wait_ms"]["mean"], result["latency_ms"]["mean"]
        said.append(f"of {total:.1f} ms mean latency, {wait:.1f} ms passed before a connection was free")
    if result["generator_cpu"] > BUSY_GENERATOR:
        said.append(
            f"the load generator used {result['generator_cpu']:.0%} of a core: these figures may be its limit rather"
            " than the server's; give it more --workers"
        )
    return said


def labels_apart(result: Mapping[str, Any]) -> str | None:
    """What to say in place of an accuracy of 0 where no label of the samples is one that the model gave."""
    served = result.get("served") or {}
    if "confusion" not in served or served["accuracy"]:
        return None
    names, table = served["label_names"], served["confusion"]
    true = [name for name, row in zip(names, table, strict=True) if any(row)]
    given = [name for name, *column in zip(names, *table, strict=True) if any(column)]
    if not set(true).isdisjoint(given):
        return None
    labels, answers = (", ".join(map(repr, some[:_SHOWN])) for some in (true, given))
    return f"no answer is a label of the samples: these have {labels}, the model gave {answers}"
