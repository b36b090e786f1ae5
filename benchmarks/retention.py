"""Accuracy retention at each ratio, compared with simpler choices of blocks.

    python benchmarks/retention.py --model PATH_OR_HUB_ID --seeds 17 18 19

Real electronics reviews (2014 and 2018 releases) from ``LWC_DATA_DIR``, title and body, split by user. Every case has
the same base, the same text and the same number of recovery steps. Results go through the stage store under
``--runs``, so a killed command resumes, and adding a case runs only that case. Prints a Markdown table and writes
``retention.json`` next to the runs. Each case reads the test split once, at its evaluation. With ``--jobs`` several
cases run at once, for a GPU that one small model does not fill.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from lwc.core.children import end_with_parent
from lwc.core.machine import cpu_limit, cpu_model
from lwc.pipeline.run import run
from lwc.recipe import METHODS, Recipe
from lwc.report.paired import Predictions, paired, read_predictions

FILES = (
    "2014-5core-musical-instruments-csv/Musical_instruments_reviews.csv.gz",
    "2014-full-electronics-cellphones-csv/Electronics.csv.gz",
    "2014-full-electronics-cellphones-csv/Cell_Phones_and_Accessories.csv.gz",
    "2014-jsonl-category-samples/Electronics_small.json.gz",
    "2014-5core-cellphones-truncated-json/Cell_Phones_and_Accessories_5.json.gz",
    "2018-5core-office-products-sample-csv/small_sample.csv.gz",
    "2018-electronics-software-sample-csv/electronics.csv.gz",
    "2018-electronics-software-sample-csv/software.csv.gz",
)
COLUMNS = {
    "body": "reviewText", "title": "summary", "rating": "overall", "user": "reviewerID", "item": "asin",
    "time": "unixReviewTime",
}  # fmt: skip
SOURCE = {"kind": "table", "paths": list(FILES), "columns": COLUMNS}
LWC = {"strategy": "racing", "keep_first": 1, "width": 4, "rows": 64, "candidates": 4, "steps": 60}
MEASURED = sorted({*METHODS.names()} - {"llama_profile", "llm_expert"})  # those want other models
BASELINES: dict[str, dict[str, Any]] = {
    "beam": {"strategy": "beam", "keep_first": 1, "width": 4, "rows": 64},
    "beam_free": {"strategy": "beam", "width": 4, "rows": 64},  # the first block may go too
    "drop_top": {"strategy": "drop_top"},
    "drop_even": {"strategy": "drop_even"},
    "drop_bottom": {"strategy": "drop_bottom"},
    "random": {"strategy": "random", "draw": 0},
    "random_2": {"strategy": "random", "draw": 1},
    **{method: {"strategy": "single", "method": method} for method in MEASURED},
    "from_scratch": {"strategy": "drop_top", "weights": "random"},
}


def rate(ratio: float, fresh: bool) -> float:
    """Learning rate of recovery: a mild cut leaves what is nearly right, which a high one first undoes (decision 6)."""
    return 5e-5 if ratio < 1.5 and not fresh else 3e-4


def recipe(options: argparse.Namespace, seed: int, case: str, ratio: float, select: dict[str, Any]) -> Recipe:
    """One case. A model from scratch learns from labels for as many steps as the others are taught."""
    train = round(options.rows * (1 - options.validation - options.test))
    fresh = select.get("weights") == "random"
    recover: dict[str, Any] = {
        "epochs": options.epochs, "learning_rate": options.learning_rate or rate(ratio, fresh),
        "batch_size": options.batch_size, "hidden_weight": options.hidden_weight, "precision": options.precision,
        "checkpoint_every": options.checkpoint_every,
    }  # fmt: skip
    if fresh:
        steps = options.epochs * (train + options.unlabelled)
        recover |= {
            "epochs": steps / train, "logits_weight": 0, "hidden_weight": 0, "label_weight": 1, "embedding_rate": 1,
            "dropout": True, "patience": 100,
        }  # fmt: skip
    elif options.unlabelled:
        recover["unlabelled"] = {"source": SOURCE, "limit": options.unlabelled}
    base: dict[str, Any] = {"kind": "pretrained", "source": options.model}
    if options.model == "scratch":
        base = {"kind": "config", "blocks": 12, "hidden": options.hidden, "heads": 4, "vocab_size": 8000}
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": f"{case}-{ratio:g}x-seed{seed}",
            "seed": seed,
            "data": {
                "source": SOURCE,
                "text_fields": ["title", "body"],
                "labels": {"scheme": options.labels},
                "split": {"by": "user", "validation": options.validation, "test": options.test},
                "limit": options.rows,
            },
            "model": {**base, "max_length": options.max_length},
            "train": {
                "epochs": options.train_epochs,
                "learning_rate": options.train_rate,
                "batch_size": options.train_batch_size,
                "precision": options.precision,
                "checkpoint_every": options.checkpoint_every,
            },
            "target": {"ratio": ratio, "of": "blocks"},
            # A single method's choice hangs on no other score.
            **({"score": {"methods": [{"method": select["method"]}]}} if "method" in select else {}),
            "select": select,
            "recover": recover,
        }
    )


def measure(options: argparse.Namespace, seed: int, case: str, ratio: float, select: dict[str, Any]) -> dict[str, Any]:
    """Run one case and read what it came to."""

    def event(kind: str, stage: str, text: str) -> None:
        if kind != "progress":
            print(f"  {case} {ratio:g}x seed {seed}: {stage} {kind} {text}", flush=True)

    results = run(
        recipe(options, seed, case, ratio, select),
        Path(options.runs),
        event,
        "evaluate",
        Path(options.runs) / "teacher" if options.remember else None,
    )
    selection = json.loads((results["select"].path / "selection.json").read_text())
    found = json.loads((results["evaluate"].path / "evaluation.json").read_text())
    recovery = json.loads((results["recover"].path / "metrics.json").read_text())
    quality = found["quality"]
    return {
        "case": case,
        "ratio": ratio,
        "seed": seed,
        "kept": selection["kept"],
        "ratios": selection["ratios"],
        "n": found["n"],
        "n_train": found["n_train"],
        "n_recovery": recovery["n_train"],
        "steps": recovery["steps"],
        "base": {name: quality["base"][name]["value"] for name in ("accuracy", "macro_f1")},
        "unrecovered": {name: quality["unrecovered"][name]["value"] for name in ("accuracy", "macro_f1")},
        "compressed": {name: quality["compressed"][name]["value"] for name in ("accuracy", "macro_f1")},
        "tfidf": {name: quality["floors"]["tfidf"][name]["value"] for name in ("accuracy", "macro_f1")},
        "retention": found["retention"]["accuracy"],
        # Distance from the base's answers on the validation split, by which recovery keeps weights.
        "kl": -recovery["validation"]["score"] if select.get("weights") != "random" else None,
        "predictions": str(results["evaluate"].path / "predictions.parquet"),
        "seconds": {name: round(result.seconds) for name, result in results.items()},
    }


def interval(values: list[float], form: str = ".2%") -> str:
    """Mean over seeds and its 95% t interval; one seed has none. ``form`` is how Python formats each number."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:{form}}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:{form}} ± {half:{form}}"


def answers(rows: list[dict[str, Any]], truth: str) -> Predictions:
    """What is held to be true (``label``, or what the ``base`` answers) and a case's answers, seed after seed."""
    parts = [read_predictions(Path(row["predictions"]), truth) for row in rows]
    ids, labels, given = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "labels", "compressed")
    )
    return Predictions(ids, labels, given)


def lead(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], truth: str) -> str:
    """lwc − this case in points of ``truth`` met, on the same test rows of the seeds that both have.

    The 95% interval resamples those rows. How much another training would change is not in it: the leads of the
    single seeds, which stand behind it, tell that.
    """
    seeds = sorted({row["seed"] for row in ours} & {row["seed"] for row in theirs})
    if ours == theirs or not seeds:
        return ""

    def over(chosen: list[int]) -> dict[str, float]:
        mine, other = (answers([row for row in rows if row["seed"] in chosen], truth) for rows in (ours, theirs))
        difference: dict[str, float] = paired(other, mine, 2000, 0)["difference"]["accuracy"]
        return difference

    found = over(seeds)
    single = ", ".join(f"{100 * over([seed])['value']:+.1f}" for seed in seeds)
    return f"{100 * found['value']:+.2f} ({100 * found['low']:+.2f} to {100 * found['high']:+.2f}; {single})"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a case and ratio, over the seeds that were run."""
    lines = [
        "| choice of blocks | blocks | params | kept (first seed) | base accuracy | cut | recovered | macro-F1"
        " | retention | bootstrap of the first seed | same label as the base | KL to the base, validation | seeds"
        " | lwc's lead, accuracy | lwc's lead, same label |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["ratio"], row["case"]), []).append(row)
    for (ratio, case), members in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] != "lwc", item[0][1])
    ):
        first = members[0]
        means = {name: float(np.mean([m[name]["accuracy"] for m in members])) for name in ("base", "unrecovered")}
        kept = interval([m["compressed"]["accuracy"] / m["base"]["accuracy"] for m in members])
        low, high = first["retention"]["low"], first["retention"]["high"]
        given, ours = answers(members, "base"), groups.get((ratio, "lwc"), [])
        apart = "" if first["kl"] is None else f"{np.mean([m['kl'] for m in members]):.4f}"
        lines.append(
            f"| {case} | {first['ratios']['blocks']:.2f}× | {first['ratios']['params']:.2f}× |"
            f" {', '.join(map(str, first['kept']))} | {means['base']:.4f} | {means['unrecovered']:.4f} |"
            f" {np.mean([m['compressed']['accuracy'] for m in members]):.4f} |"
            f" {np.mean([m['compressed']['macro_f1'] for m in members]):.4f} | {kept} | {low:.1%}–{high:.1%} |"
            f" {np.mean(given.labels == given.compressed):.2%} | {apart} | {len(members)} |"
            f" {lead(ours, members, 'label')} | {lead(ours, members, 'base')} |"
        )
    first = rows[0]
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    lines += [
        "",
        f"n = {first['n']} test reviews, {first['n_train']} labelled train reviews, {first['n_recovery']} texts in "
        f"recovery, {first['steps']} steps; seeds {sorted({row['seed'] for row in rows})}; "
        f"TF-IDF on the same labelled rows {first['tfidf']['accuracy']:.4f} / {first['tfidf']['macro_f1']:.4f}; "
        f"{gpu}{cpu_model()}, {cpu_limit()} cores, "
        f"{datetime.now(UTC):%Y-%m-%d}.",
    ]
    return "\n".join(lines)


Case = tuple[int, str, float, dict[str, Any]]
"""Seed, name, ratio and the recipe's ``select``."""


def asked(options: argparse.Namespace) -> list[Case]:
    """The cases, those of all seeds side by side."""
    cases = [("lwc", ratio, LWC) for ratio in options.ratios]
    cases += [(name, options.baseline_ratio, BASELINES[name]) for name in options.baselines]
    return [(seed, *case) for case in cases for seed in options.seeds]


def finished(options: argparse.Namespace, cases: list[Case]) -> Iterator[tuple[Case, Future[dict[str, Any]]]]:
    """Each case as it ends, up to ``--jobs`` of them at once. The store lets two that need one stage take turns."""
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        running = {pool.submit(measure, options, *case): case for case in cases}
        for future in as_completed(running):
            yield running[future], future


def main() -> None:
    """Run what is asked for and print the table; exit 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a 12-block encoder (path, package:, hub id), or scratch")
    parser.add_argument("--hidden", type=int, default=128, help="width of a 12-block base trained from scratch")
    parser.add_argument("--runs", default="runs/retention")
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--ratios", type=float, nargs="*", default=[3.0, 2.0, 1.33])
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), choices=sorted(BASELINES))
    parser.add_argument("--baseline-ratio", type=float, default=3.0)
    parser.add_argument("--labels", default="binary", choices=("binary", "five_class"))
    parser.add_argument("--rows", type=int, default=6000, help="labelled rows, of which train is what the splits leave")
    parser.add_argument("--validation", type=float, default=0.067)
    parser.add_argument("--test", type=float, default=0.333)
    parser.add_argument("--unlabelled", type=int, default=12000, help="further texts of the pool, labels unread")
    parser.add_argument(
        "--remember", action="store_true", help="keep the base's answers for other cases (15 GB a seed)"
    )
    parser.add_argument("--epochs", type=float, default=1.0, help="of recovery")
    parser.add_argument("--train-epochs", type=float, default=1.0)
    parser.add_argument("--train-rate", type=float, default=1e-4, help="learning rate of the base")
    parser.add_argument("--train-batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="of recovery; by the ratio unless told")
    parser.add_argument("--batch-size", type=int, default=16, help="of recovery")
    parser.add_argument("--hidden-weight", type=float, default=3.0, help="of recovery")
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of train and recover")
    parser.add_argument("--checkpoint-every", type=int, help="steps; one a minute unless told")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    failed = False
    for (seed, case, ratio, _), future in finished(options, asked(options)):
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            raise SystemExit("a process was killed, for memory perhaps: start again with fewer --jobs, to go on")
        if error is not None:
            failed = True
            print(f"{case} {ratio:g}x seed {seed} failed: {error}", file=sys.stderr, flush=True)
            continue
        row = future.result()
        rows = sorted([*rows, row], key=lambda row: (row["seed"], row["ratio"], row["case"]))
        (Path(options.runs) / "retention.json").write_text(json.dumps(rows, indent=2))
        print(f"{case} {ratio:g}x seed {seed}: {row['retention']['value']:.2%} of the base's accuracy", flush=True)
    if rows:
        print(table(rows), flush=True)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
