"""The highest rate at which a served model meets its latency objective, by short windows of an open loop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lwc.core.errors import GATE_FAILED, RecipeError, ServingError
from lwc.core.store import write_json
from lwc.serving.loadtest.endpoint import Endpoint
from lwc.serving.loadtest.run import RATE_TOLERANCE, Load, Thresholds, check_thresholds, error_causes, measure
from lwc.serving.loadtest.search import Limit, Search, bracket, confirm, take_turns
from lwc.tasks.endpoint import Sample

# A p95 of fewer requests says little: windows at low rates are longer, within reason.
WINDOW_REQUESTS, LONGEST_WINDOW_S = 100, 60.0
NONE = Limit(None, None)
_KEPT = (
    "requests", "errors", "error_rate", "offered_rps", "throughput_rps", "achieved_ratio", "latency_ms", "wait_ms",
    "generator_cpu", "server", "why",
)  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """What a window must meet: p95 from when requests were due, share of errors, share of the rate left unanswered."""

    max_p95_ms: float
    max_error_rate: float = 0.0
    rate_tolerance: float = RATE_TOLERANCE

    def __post_init__(self) -> None:
        if not 0 < self.max_p95_ms < math.inf:
            raise RecipeError("the objective is not a p95 above 0 ms", "set max_p95_ms to a number above 0")

    def missed_by(self, result: Mapping[str, Any]) -> list[str]:
        """Why a window missed it; empty where it was met."""
        return check_thresholds(result, Thresholds(self.max_error_rate, self.max_p95_ms, self.rate_tolerance))


def find_rates(
    endpoints: Sequence[Endpoint],
    objective: Objective,
    search: Search,
    load: Load,
    samples: Sequence[Sample],
    out: Path,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Search for each endpoint's limit, a window each in turn; offline predictions are those of the first model.

    ``load`` gives connections, seconds of a window, warm-up and arrivals; rate and seed are the search's. Leaves
    ``rates.json`` (returned) and the raw records of window n in ``out/<model>/<n>``.

    Returns:
        ``objective``, ``search``, ``load``, ``protocol``, ``models`` (model → ``unloaded_ms`` of one user alone,
        ``rate_rps`` or None, ``missed_rps``, the spread over the repeats at the found rate, ``why``, how many rates
        were in doubt, ``steps``) and, with two endpoints, ``ratio`` of the first's rate to the second's: its value and
        what the brackets leave open.

    Raises:
        RecipeError: two endpoints name the same model.
        ServingError: a model answered nothing at all, or a load test broke.
    """
    named = {endpoint.model: endpoint for endpoint in endpoints}
    if len(named) != len(endpoints):
        raise RecipeError("a model cannot be compared with itself", "name two served models")
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in named}
    unknown = [replace(sample, offline=None) for sample in samples]
    asked = {name: samples if name == endpoints[0].model else unknown for name in named}

    def window(name: str, rate: float) -> bool:
        number = len(steps[name]) + 1
        seconds = max(load.seconds, min(WINDOW_REQUESTS / rate, LONGEST_WINDOW_S))
        at_rate = replace(load, rate=rate, seed=load.seed + 2 * number, seconds=seconds)
        folder = out / name / str(number)
        result = measure(named[name], at_rate, asked[name], folder)
        # A megabyte each, and nothing in it that the records do not tell.
        (folder / f"locust_{named[name].protocol}.html").unlink(missing_ok=True)
        missed = objective.missed_by(result)
        steps[name].append(_step(rate, seconds, missed, result))
        if progress is not None:
            progress(f"{name}: {_said(rate, missed, result)}")
        return not missed

    unloaded = {}
    for name in named:
        one_user = replace(load, users=1, workers=1, elsewhere=None, rate=None)
        alone = measure(named[name], one_user, asked[name], out / name / "unloaded")
        if "latency_ms" not in alone:
            raise ServingError(f"{name} answered no request: {error_causes(alone)}", f"logs: {out / name}", GATE_FAILED)
        unloaded[name] = {key: alone["latency_ms"][key] for key in ("p50", "p95")}
    # Where half the requests take longer without any other in the server, no rate will do.
    within = [name for name in named if unloaded[name]["p50"] <= objective.max_p95_ms]
    limits = take_turns({name: bracket(search) for name in within}, window)
    confirmed_from = {name: len(taken) for name, taken in steps.items()}
    limits = take_turns({name: confirm(limits[name], search) for name in within}, window)
    models = {
        name: {"unloaded_ms": unloaded[name], **_model(limits.get(name, NONE), taken, confirmed_from[name])}
        for name, taken in steps.items()
    }
    found = {
        "objective": asdict(objective),
        "search": asdict(search),
        "load": {**asdict(load), "rate": None},
        "protocol": endpoints[0].protocol,
        "models": models,
        "ratio": _ratio(*(limits[name] for name in named)) if len(limits) == len(named) == 2 else None,
    }
    write_json(out / "rates.json", found)
    return found


def _step(rate: float, seconds: float, missed: list[str], result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rate_rps": rate,
        "seconds": seconds,
        "met": not missed,
        "missed_by": missed,
        "causes": error_causes(result),
        "matches_offline": result.get("served", {}).get("matches_offline"),
        **{key: result[key] for key in _KEPT if key in result},
    }


def _said(rate: float, missed: Sequence[str], result: Mapping[str, Any]) -> str:
    p95 = f"p95 {result['latency_ms']['p95']:.1f} ms" if "latency_ms" in result else "no answers"
    verdict = f"missed: {missed[0]}" if missed else "met"
    return f"{rate:.4g}/s: {p95}, {result['achieved_ratio']:.1%} of the rate answered; {verdict}"


def _model(limit: Limit, steps: Sequence[Mapping[str, Any]], confirmed_from: int) -> dict[str, Any]:
    outcomes = [{step["met"] for step in steps if step["rate_rps"] == rate} for rate in {s["rate_rps"] for s in steps}]
    at_rate = [step for step in steps[confirmed_from:] if step["rate_rps"] == limit.met and "latency_ms" in step]
    return {
        "rate_rps": limit.met,
        "missed_rps": limit.missed,
        "p95_ms": spread([step["latency_ms"]["p95"] for step in at_rate]),
        "achieved_rps": spread([step["throughput_rps"] for step in at_rate]),
        "why": at_rate[-1]["why"] if at_rate else [],
        # Met by one window and missed by another. Some are, near the limit; many say that the machine was not quiet.
        "rates_tried": len(outcomes),
        "rates_in_doubt": sum(len(outcome) == 2 for outcome in outcomes),
        "steps": list(steps),
    }


def spread(values: Sequence[float]) -> dict[str, float | int] | None:
    """Lowest, median and highest of n windows; None of none."""
    if not values:
        return None
    return {"n": len(values), "low": min(values), "median": statistics.median(values), "high": max(values)}


def _ratio(first: Limit, second: Limit) -> dict[str, float | None] | None:
    """Rate of the first model ÷ rate of the second; ``low`` and ``high`` are what the two brackets leave open."""
    if first.met is None or second.met is None:
        return None
    return {
        "value": first.met / second.met,
        "low": first.met / second.missed if second.missed else None,
        "high": first.missed / second.met if first.missed else None,
    }
