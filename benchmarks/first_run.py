"""The README's first run over several seeds: what it keeps, what it gains, how long it takes.

    python benchmarks/first_run.py --seeds 17 18 19

Runs ``lwc run RECIPE --set seed=N`` as a command of its own, one seed after the other, prints its output, and averages
the report's figures as served. Peak memory is that of the command and all its children (proportional set sizes, so
that shared pages count once), sampled every half second. A seed whose result is in ``--out`` is not run again, so a
killed benchmark resumes. Each seed reads the test split once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from retention import interval

from lwc.core.children import ProcessGroup
from lwc.core.machine import cpu_limit, cpu_model

SAMPLED_EVERY = 0.5


def memory(command: int) -> int:
    """Bytes of a process and its children."""
    held = 0
    try:
        family = [psutil.Process(command), *psutil.Process(command).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            held += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # ended since it was listed
    return held


def run_seed(recipe: Path, seed: int, out: Path) -> dict[str, Any]:
    """One command; its exit code, seconds, peak memory and report."""
    place = out / f"seed-{seed}"
    command = [
        sys.executable, "-m", "lwc", "run", str(recipe), "--set", f"seed={seed}",
        "--runs", str(place / "runs"), "--triton-models", str(place / "triton_models"),
    ]  # fmt: skip
    started, peak = time.monotonic(), 0
    with ProcessGroup() as group:
        process = subprocess.Popen(command, stderr=subprocess.STDOUT, process_group=group.id)
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(SAMPLED_EVERY)
    seconds = time.monotonic() - started
    (report,) = (place / "runs").glob("*/report.json")
    return {
        "seed": seed, "exit": process.returncode, "seconds": seconds, "peak_bytes": peak,
        "report": json.loads(report.read_text("utf-8")),
    }  # fmt: skip


def rows(results: list[dict[str, Any]]) -> list[tuple[str, list[float]]]:
    """What is told of every seed, in the table's order."""
    served = [one["report"]["served"] for one in results]
    quality = [one["report"]["quality"]["base"] for one in results]
    return [
        ("base accuracy", [one["accuracy"]["value"] for one in quality]),
        ("base macro-F1", [one["macro_f1"]["value"] for one in quality]),
        ("accuracy as served", [one["quality"]["accuracy"]["value"] for one in served]),
        ("accuracy retention as served", [one["retention"]["accuracy"]["value"] for one in served]),
        ("  lower end", [one["retention"]["accuracy"]["low"] for one in served]),
        ("macro-F1 retention as served", [one["retention"]["macro_f1"]["value"] for one in served]),
        *((f"ratio in {name}", [one["ratios"][name] for one in served]) for name in served[0]["ratios"]),
        *(
            (f"{key}, {shape['batch']} × {shape['length']}", [one["latency"]["shapes"][n][key] for one in served])
            for n, shape in enumerate(served[0]["latency"]["shapes"])
            for key in ("ratio", "ratio_eager")
        ),
        ("seconds", [one["seconds"] for one in results]),
        ("peak memory, GB", [one["peak_bytes"] / 1e9 for one in results]),
        ("exit code", [float(one["exit"]) for one in results]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/amazon_2.5x.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--out", type=Path, default=Path("runs/first_run"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in asked.seeds:
        done = asked.out / f"seed-{seed}.json"
        if not done.is_file():
            print(f"seed {seed}", flush=True)
            done.write_text(json.dumps(run_seed(asked.recipe, seed, asked.out)), encoding="utf-8")
        results.append(json.loads(done.read_text("utf-8")))
    print(f"\n{asked.recipe}, {cpu_model()}, {cpu_limit()} cores, {datetime.now(UTC):%Y-%m-%d}\n")
    print(f"| | {' | '.join(f'seed {one}' for one in asked.seeds)} | mean |\n|---{'|---' * (len(asked.seeds) + 1)}|")
    for name, values in rows(results):
        print(f"| {name} | {' | '.join(f'{value:.4g}' for value in values)} | {interval(values, '.4f')} |")


if __name__ == "__main__":
    main()
