"""The parts of the report that explain a load test: how the server was loaded, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping

from lwc.recipe import TASKS
from lwc.report.content_types import Report
from lwc.report.document import Figure, Paragraph, Section, Table
from lwc.report.formats import number, percent, ratio
from lwc.report.serving_contents import Limit, Served, ServerTime, SpreadOfWindows

_MEANS: tuple[ServerTime, ...] = (
    "mean_batch", "queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms", "request_ms",
)  # fmt: skip


def load_words(measured: Served) -> str:
    """How one load test loaded the server, in a few words."""
    users = number(measured.get("users"))
    if measured.get("load") != "open_loop":
        return f"{users} users, each waiting for its answer (closed loop)"
    return (
        f"{number(measured.get('target_rps'), 1)} requests/s whether answered or not (open loop), "
        f"over {users} connections, latency from when a request was due"
    )


def server_table(measured: Mapping[str, Served]) -> Table | None:
    """Triton's own counters by protocol and model, None where they were not read."""
    rows = tuple(
        (protocol, model, number(counts["requests"]), *(number(counts[key], 2) for key in _MEANS))
        for protocol, one in measured.items()
        for model, counts in ((one.get("server") or {}).get("models") or {}).items()
    )
    header = (
        "protocol", "model", "requests", "requests an execution", "queue ms", "input ms", "compute ms", "output ms",
        "in the server ms",
    )  # fmt: skip
    caption = (
        "Triton's counters over the measured window, mean per request of the model. The text model's time includes the "
        "token model it calls. Latency beyond the time in the server is client, network and protocol."
    )
    return Table(header, rows, caption) if rows else None


def limit_blocks(limit: Limit) -> list[Paragraph | Table]:
    """The highest rates within the objective, and what they were limited by."""
    objective = f"p95 ≤ {number(float(limit['objective']['max_p95_ms']), 1)} ms"
    models = {"compressed": limit["compressed"], **({"base": limit["base"]} if limit["base"] is not None else {})}
    rows = tuple(
        (
            name,
            number(one["unloaded_ms"]["p95"], 1),
            number(one["rate_rps"], 1) if one["rate_rps"] is not None else "none met it",
            number(one["missed_rps"], 1),
            _spread(one["p95_ms"]),
            _spread(one["achieved_rps"]),
            number(len(one["steps"])),
            f"{number(one['rates_in_doubt'])} of {number(one['rates_tried'])}",
        )
        for name, one in models.items()
    )
    header = (
        "model", "one user alone, p95 ms", f"highest rate with {objective}", "lowest that misses it", "p95 ms",
        "answered/s", "windows", "rates in doubt",
    )  # fmt: skip
    caption = (
        f"Highest rate of an open loop over {limit['protocol']} within {objective} and an error rate of at most "
        f"{percent(limit['objective']['max_error_rate'], 2)}, latency from when a request was due; median "
        "(lowest–highest) of the windows at that rate. A rate is in doubt if one window met the objective and "
        "another missed it: near the limit, or on a busy machine."
    )
    if len(models) == 2:
        caption += " Both models run in one server, and their windows alternate."
    blocks: list[Paragraph | Table] = [Table(header, rows, caption)]
    if limit["ratio"] is not None:
        ends = ratio(limit["ratio"]["low"]), ratio(limit["ratio"]["high"])
        blocks.append(
            Paragraph(
                f"The compressed model is served at {ratio(limit['ratio']['value'])} the rate of the base within the "
                f"same objective (between {ends[0]} and {ends[1]}, by the rates that were missed)."
            )
        )
    return blocks + [Paragraph(f"{name} at its rate: {why}.") for name, one in models.items() for why in one["why"]]


def _spread(value: SpreadOfWindows | None) -> str:
    if value is None:
        return number(None)
    return f"{number(value['median'], 1)} ({number(value['low'], 1)}–{number(value['high'], 1)})"


def serving_section(report: Report, figures: Mapping[str, Figure]) -> Section:
    """What was measured at the served endpoint, and where the time went."""
    measured = {name: one for name, one in (report["serving"] or {}).items() if one is not None}
    if not measured:
        text = "Serving was not run: latency under load, throughput, errors and served accuracy are not measured."
        return Section("Serving", [Paragraph(text)])
    rows, reading = [], TASKS[report["task"]].headline
    for name, one in measured.items():
        latency = one.get("latency_ms", {})
        served: Mapping[str, object] = one.get("served", {})
        rows.append(
            (
                name,
                number(one["requests"]),
                f"{number(one['errors'])} ({percent(one.get('error_rate'), 2)})",
                number(one.get("throughput_rps"), 1),
                *(number(latency.get(q), 1) for q in ("p50", "p95", "p99")),
                *(number(served.get(key), 4) for key in reading.served),
                percent(served.get("matches_offline"), 2),
                number(served.get("n")),
            )
        )
    header = (
        "protocol", "requests", "errors", "requests/s", "p50 ms", "p95 ms", "p99 ms",
        *reading.served.values(), "equal to offline", reading.asked,
    )  # fmt: skip
    verify = report["recipe"]["resolved"]["verify"]
    caption = (
        f"Triton server on this machine, test-split {reading.asked} in; {load_words(next(iter(measured.values())))}, "
        f"{verify['seconds']:g} s after {verify['warmup_seconds']:g} s of warm-up. The load generator shares the cores."
    )
    blocks: list[Paragraph | Table | Figure] = [Table(header, tuple(rows), caption)]
    for name, one in measured.items():
        if (one.get("served") or {}).get("note"):
            blocks.append(Paragraph(f"{name}: {one['served']['note']}."))
        for sentence in one.get("why") or ():
            blocks.append(Paragraph(f"{name}: {sentence}."))
        if one.get("shortfall"):
            blocks.append(Paragraph(f"{name}: {one['shortfall']}.", "bad"))
    times = server_table(measured)
    if times is not None:
        blocks.append(times)
    if "latency" in figures:
        blocks.append(figures["latency"])
    for one in measured.values():
        blocks += limit_blocks(one["limit"]) if one.get("limit") else []
    return Section("Serving", blocks)
