"""Cost of serving over in-process calls, gain of compression when served, and behaviour under faults.

    python benchmarks/serving.py --compressed runs/tiny --base runs/tiny
    python benchmarks/serving.py --compressed triton_models/tiny --samples runs/tiny/verify/samples.parquet --soak 30
    python benchmarks/serving.py --compressed runs/tiny --kill

A path is a finished run folder (``--base`` uses its uncut model) or a Triton repository written by lwc. Served and
in-process windows alternate, so a disturbance of the machine affects both. The server, the load generator and the
in-process calls share the same cores. Prints Markdown, writes ``serving.json``, and exits with 3 if an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from serving_faults import kill, soak
from serving_table import row, table
from tokenizers import Tokenizer

from lwc.core.errors import GATE_FAILED, OK, LwcError, RecipeError
from lwc.export.session import cpu_session, run
from lwc.pipeline.run import plan
from lwc.recipe import Recipe
from lwc.serving.loadtest.endpoint import Protocol, connect
from lwc.serving.loadtest.find_rate import Objective, find_rates
from lwc.serving.loadtest.run import Load, run_loadtest
from lwc.serving.loadtest.samples import read_samples
from lwc.serving.loadtest.search import Search
from lwc.serving.triton.config import parse
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.triton.server import TritonServer
from lwc.tasks.endpoint import Sample
from lwc.tasks.text_endpoint import TextEndpoint
from lwc.tasks.text_wire import TextWire

SERVED_SHARE, P95_TO_P50, SPEED_UP_SHARE = 0.85, 2.0, 0.9
CONNECTIONS = 64  # of an open loop: enough that a busy server, not a lack of them, makes requests wait


class InProcess:
    """The served model without a server: the same tokenizer, padding, ONNX file and threads, in this process."""

    def __init__(self, repository: Path, model: str) -> None:
        parameters = {k: v.string_value for k, v in _config(repository, model).parameters.items()}
        token_model = parameters["token_model"]
        threads = int(_config(repository, token_model).parameters["intra_op_thread_count"].string_value)
        self.session = cpu_session(repository / token_model / "1" / "model.onnx", threads)
        self.tokenizer = Tokenizer.from_file(str(repository / model / "1" / "tokenizer.json"))
        self.buckets = [int(size) for size in parameters["length_buckets"].split(",")]
        self.pad_id = int(parameters["pad_id"])
        self.tokenizer.enable_truncation(self.buckets[-1])
        self.tokenizer.no_padding()

    def classify(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Logits (B, C) of B texts."""
        encoded = self.tokenizer.encode_batch(list(texts))
        longest = max(len(one.ids) for one in encoded)
        width = next(size for size in self.buckets if size >= longest)
        ids = np.full((len(texts), width), self.pad_id, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for number, one in enumerate(encoded):
            for array, values in ((ids, one.ids), (mask, one.attention_mask), (types, one.type_ids)):
                array[number, : len(values)] = values
        return run(self.session, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})

    def rate(self, texts: Sequence[str], batch: int, seconds: float) -> float:
        """Texts/s in batches of ``batch``, over the texts in order for ``seconds``."""
        self.classify(texts[:batch])
        done, at, began = 0, 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.classify([texts[(at + i) % len(texts)] for i in range(batch)])
            done, at = done + batch, at + batch
        return done / (time.perf_counter() - began)


def _config(repository: Path, model: str) -> Any:
    return parse((repository / model / "config.pbtxt").read_text(encoding="utf-8"))


def _stage_paths(folder: Path) -> tuple[Recipe, dict[str, Path]]:
    """The recipe of a run folder, and where its stages lie."""
    recipe = Recipe.model_validate(json.loads((folder / "report.json").read_text())["recipe"]["resolved"])
    stages = {one.stage.name: one.artifact.path for one in plan(recipe, folder.parent) if one.artifact is not None}
    if "package" not in stages:
        raise RecipeError(f"{folder}: its stages are gone or were made by another version", "run the recipe again")
    return recipe, stages


def _add(source: Path, folder: Path, base: bool) -> str:
    """Put the models of a run or a repository into ``folder``; returns the name of the text model."""
    if (source / "report.json").is_file():
        recipe, stages = _stage_paths(source)
        if base:
            name = f"{recipe.name}_base"
            onnx, checkpoint = stages["export"] / "base" / "model.onnx", stages["train"] / "model"
            build_repository(TextEndpoint(), ModelFiles(onnx, checkpoint), folder, recipe.package, name)
            return name
        source = stages["package"] / "repository"
    models = [path.parent for path in sorted(source.glob("*/config.pbtxt"))]
    named = [model.name for model in models if "token_model" in _config(source, model.name).parameters]
    if len(named) != 1:
        raise RecipeError(f"{source}: a run folder or a repository made by lwc is wanted, with one text model")
    for model in models:
        if (folder / model.name).exists():
            raise RecipeError(f"two models are called {model.name}", "give one of the runs another name")
        shutil.copytree(model, folder / model.name)  # a link would leave the repository, which `lwc serve` refuses
    return named[0]


class Bench:
    """The server with its models, and the windows that are measured on it."""

    def __init__(self, server: TritonServer, options: argparse.Namespace, samples: list[Sample]) -> None:
        self.server, self.options, self.samples = server, options, samples
        self.texts = [str(sample.question) for sample in samples]

    def endpoint(self, model: str, protocol: Protocol = "http") -> Any:
        url = self.server.http_url if protocol == "http" else self.server.grpc_url
        return connect(url, protocol, model, self.server.metrics_url)

    def load(self, **changes: Any) -> Load:
        settings = {"users": self.options.users, "seconds": self.options.seconds, "warmup_seconds": 2.0, **changes}
        return Load(**settings)

    def overhead(self, model: str, direct: InProcess) -> list[dict[str, Any]]:
        """(a) Served against in-process throughput at the batch size that the server reached; p95 at half that rate."""
        served, called, batches = [], [], []
        for round_ in range(self.options.rounds):
            out = self.options.out / model / str(round_)
            result = run_loadtest(self.endpoint(model), self.load(), self.samples, out, 1)
            batches.append(result["server"]["models"][model]["mean_batch"])
            served.append(result["throughput_rps"])
            called.append(direct.rate(self.texts, max(1, round(batches[-1])), self.options.seconds))
        shares = [one / other for one, other in zip(served, called, strict=True)]
        half = self.load(users=CONNECTIONS, rate=statistics.median(served) / 2)
        result = run_loadtest(self.endpoint(model), half, self.samples, self.options.out / model / "half", 1)
        p50, p95 = result["latency_ms"]["p50"], result["latency_ms"]["p95"]
        told = (
            f"{statistics.median(served):.0f}/s of {statistics.median(called):.0f}/s; {len(served)} ×"
            f" {self.options.seconds:g} s, {self.options.users} users, batches of {statistics.mean(batches):.1f}"
        )
        return [
            row(f"{model}: served ÷ in-process throughput", shares, SERVED_SHARE, ">=", told),
            row(f"{model}: p95 ÷ p50 at half of that rate", [p95 / p50], P95_TO_P50, "<=",
                 f"p50 {p50:.1f} ms, p95 {p95:.1f} ms at {half.rate:.0f}/s, n = {result['requests']};"
                 f" {'; '.join(result['why'])}"),
        ]  # fmt: skip

    def gain(self, models: Sequence[str], direct: Sequence[InProcess]) -> list[dict[str, Any]]:
        """(b) Rates of compressed and base within one objective, against the speed-up in-process at their batches."""
        objective, options = Objective(self.options.max_p95_ms), self.options
        load = self.load(users=CONNECTIONS, seconds=options.window)
        endpoints = [self.endpoint(model) for model in models]
        found = find_rates(
            endpoints, objective, Search(options.start, options.precision, options.rounds), load, self.samples,
            options.out / "rates", progress=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
        title = f"{models[0]} ÷ {models[1]}: rate with p95 ≤ {options.max_p95_ms:g} ms"
        if found["ratio"] is None:
            return [row(title, [], 0.0, ">=", "a model met the objective at no rate")]
        batches = [
            max(1, round(found["models"][model]["steps"][-1]["server"]["models"][model]["mean_batch"]))
            for model in models
        ]
        ups = []
        for _ in range(options.rounds):
            rates = [one.rate(self.texts, n, options.seconds) for one, n in zip(direct, batches, strict=True)]
            ups.append(rates[0] / rates[1])
        up = statistics.median(ups)
        rates = " and ".join(f"{found['models'][m]['rate_rps']:.1f}/s (batch {n})" for m, n in zip(models, batches))  # noqa: B905
        ends = " – ".join(
            "?" if found["ratio"][end] is None else f"{found['ratio'][end]:.2f}" for end in ("low", "high")
        )
        told = f"{rates}, bracket {ends}; in-process {up:.2f}× ({min(ups):.2f}–{max(ups):.2f})"
        return [row(title, [found["ratio"]["value"]], SPEED_UP_SHARE * up, ">=", told)]


def bench(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Start the server on what was given and measure what was asked for."""
    given = options.samples or options.compressed / "verify" / "samples.parquet"
    samples = read_samples(given, TextWire())
    with tempfile.TemporaryDirectory(prefix="lwc-bench-") as name:
        folder = Path(name)
        models = [_add(options.compressed, folder, base=False)]
        if options.base is not None:
            models.append(_add(options.base, folder, base=True))
        if options.kill is not None:
            return kill(folder, models[0], samples, options.kill)
        with TritonServer(folder) as server:
            if options.soak is not None:
                return soak(server, models[0], samples, options.soak, options.out / "soak")
            direct = [InProcess(folder, model) for model in models]
            rows = Bench(server, options, samples).overhead(models[0], direct[0])
            if len(models) == 2:
                unknown = [replace(sample, offline=None) for sample in samples]
                rows += Bench(server, options, unknown).overhead(models[1], direct[1])
                rows += Bench(server, options, samples).gain(models, direct)
            return rows


def main() -> None:
    """Measure, print, and tell by the exit code whether every aim was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressed", type=Path, required=True, help="run folder, or repository made by lwc")
    parser.add_argument("--base", type=Path, help="run folder (its uncut model), or repository made by lwc")
    parser.add_argument("--samples", type=Path, help="by default verify/samples.parquet of the compressed run folder")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only this: mixed load, nothing lost or wrong")
    parser.add_argument(
        "--kill", type=int, nargs="?", const=3, metavar="TIMES", help="only this: kill -9 of its model process, 3 times"
    )
    parser.add_argument("--users", type=int, default=16, help="of the closed loop")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a closed-loop or in-process window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-p95-ms", type=float, default=50.0)
    parser.add_argument("--window", type=float, default=5.0, help="seconds of a window of the search")
    parser.add_argument("--start", type=float, default=20.0, help="requests/s that the search starts from")
    parser.add_argument("--precision", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/serving-benchmark"))
    options = parser.parse_args()
    try:
        rows = bench(options)
    except LwcError as problem:
        print(f"error: {problem}\n  do: {problem.hint}", file=sys.stderr)
        sys.exit(problem.exit_code)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    print(table(rows))
    sys.exit(OK if all(one["met"] for one in rows) else GATE_FAILED)


if __name__ == "__main__":
    main()
