"""Serving configurations of one repository against each other: answers/s, latency and CPU time a request.

    python benchmarks/serving_configs.py --repository triton_models/tiny --samples runs/tiny/verify/samples.parquet
    python benchmarks/serving_configs.py … --graph runs/tiny/…/model.onnx --busy 2

Every round starts a server for each configuration in turn and asks it in a closed loop, so a disturbance of the machine
falls on all. Prints a row after each window and medians at the end; ratios are those of the same round against the
first configuration. ``--busy N`` runs N CPU-bound programs beside the server, as neighbours on a shared host do.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from lwc.core.children import ProcessGroup
from lwc.core.machine import cpu_limit
from lwc.serving.loadtest.endpoint import connect
from lwc.serving.loadtest.run import Load, run_loadtest
from lwc.serving.loadtest.samples import read_samples
from lwc.serving.triton.config import as_text, parse
from lwc.serving.triton.server import TritonServer
from lwc.tasks.text_wire import TextWire

Change = Callable[[str, Any], None]
CORES = cpu_limit()


class Window(NamedTuple):
    """One configuration in one round: answers/s, latencies in ms, CPU time of the server in ms a request."""

    rate: float
    p50: float
    p95: float
    cpu: float


def configured(
    instances: int, threads: int, token_delay: int, front_delay: int, preferred: Sequence[int] = ()
) -> Change:
    """A configuration: model instances, ONNX Runtime threads of each, the batchers' delays in µs, preferred batches."""

    def change(kind: str, config: Any) -> None:
        config.instance_group[0].count = instances
        delay = token_delay if kind == "tokens" else front_delay
        config.dynamic_batching.max_queue_delay_microseconds = delay
        if kind == "front":
            config.dynamic_batching.ClearField("preferred_batch_size")
            config.dynamic_batching.preferred_batch_size.extend(preferred)
        if kind == "tokens":
            config.parameters["intra_op_thread_count"].string_value = str(threads)

    return change


CONFIGURATIONS: dict[str, Change] = {
    "before: 1 instance, all threads, 1 ms": configured(1, CORES, 1000, 1000),
    "1-thread instances, 0 ms, batches of 8 (default)": configured(CORES, 1, 0, 0, preferred=[8]),
    "1-thread instances, 0 ms, batches of 4 or 8": configured(CORES, 1, 0, 0, preferred=[4, 8]),
    "1-thread instances, 1 ms": configured(CORES, 1, 0, 1000),
    "1-thread instances, 1 ms, batches of 8": configured(CORES, 1, 0, 1000, preferred=[8]),
    "1-thread instances, 2 ms, batches of 8": configured(CORES, 1, 0, 2000, preferred=[8]),
}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run ``count`` programs that use a core each."""
    with ProcessGroup() as group:
        for _ in range(count):
            subprocess.Popen([sys.executable, "-c", "while True: pass"], process_group=group.id)
        yield


def cpu_seconds(pid: int) -> float:
    """CPU time that a server and its processes have used."""
    server = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (server, *server.children(recursive=True)))


def window(folder: Path, model: str, samples: list[Any], options: argparse.Namespace) -> Window:
    """Serve a repository and ask it for a while."""
    with TritonServer(folder) as server, tempfile.TemporaryDirectory() as out:
        endpoint = connect(server.http_url, "http", model, server.metrics_url)
        run_loadtest(endpoint, Load(options.users, 2.0, 1.0), samples, Path(out) / "warm", 1)
        before = cpu_seconds(server.pid)
        with neighbours(options.busy):
            result = run_loadtest(endpoint, Load(options.users, options.seconds, 0.0), samples, Path(out), 1)
        spent = cpu_seconds(server.pid) - before
        latency = result["latency_ms"]
        if result["errors"]:
            raise SystemExit(f"{result['errors']} errors of {result['requests']} requests")
        return Window(result["throughput_rps"], latency["p50"], latency["p95"], 1000 * spent / result["requests"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--graph", type=Path, help="ONNX file to serve in place of the repository's")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of configurations, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/serving_configs.json"))
    options = parser.parse_args()
    samples = read_samples(options.samples, TextWire())
    names = [name for number, name in enumerate(CONFIGURATIONS) if options.only is None or number in options.only]
    found: dict[str, list[Window]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="lwc-configs-") as place:
        folders = {}
        for number, name in enumerate(names):
            folders[name] = Path(place) / str(number)
            shutil.copytree(options.repository, folders[name])
            for path in folders[name].glob("*/config.pbtxt"):
                config = parse(path.read_text(encoding="utf-8"))
                kind = "tokens" if config.backend == "onnxruntime" else "front"
                CONFIGURATIONS[name](kind, config)
                path.write_text(as_text(config), encoding="utf-8")
                if kind == "front":
                    model = config.name
                elif options.graph is not None:
                    shutil.copy2(options.graph, path.parent / "1" / "model.onnx")
        print("| round | configuration | answers/s | p50 ms | p95 ms | CPU ms a request |\n|---|---|---|---|---|---|")
        for round_ in range(options.rounds):
            for name in names:
                got = window(folders[name], model, samples, options)
                found[name].append(got)
                print(
                    f"| {round_ + 1} | {name} | {got.rate:.0f} | {got.p50:.1f} | {got.p95:.1f} | {got.cpu:.2f} |",
                    flush=True,
                )
    first, loaded = found[names[0]], f"{options.users} users, {options.busy} programs beside, {CORES} cores"
    print(f"\n{options.rounds} rounds of {options.seconds:g} s, {loaded}")
    print("| configuration | answers/s | p95 ms | CPU ms | ÷ first: answers/s | p95 | CPU |\n" + "|---" * 7 + "|")
    for name, windows in found.items():
        rate, _, p95, cpu = (statistics.median(values) for values in zip(*windows, strict=True))
        ratios = [
            statistics.median(
                getattr(mine, field) / getattr(other, field) for mine, other in zip(windows, first, strict=True)
            )
            for field in ("rate", "p95", "cpu")
        ]
        print(
            f"| {name} | {rate:.0f} | {p95:.1f} | {cpu:.2f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({name: [w._asdict() for w in windows] for name, windows in found.items()}, indent=2)
    )


if __name__ == "__main__":
    main()
