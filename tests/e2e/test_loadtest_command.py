"""``lwc loadtest`` against a real Triton: its counters, its metadata, several workers, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import infer_text
from tiny_models import tiny

from lwc.export.onnx import export_onnx
from lwc.models.load import save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Package
from lwc.serving.loadtest.samples import write_samples
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.triton.server import TritonServer
from lwc.tasks.endpoint import Sample
from lwc.tasks.text_endpoint import TextEndpoint

pytestmark = pytest.mark.serving

TEXTS = [f"review {i}: a good thing that works {'very ' * (i % 7)}well" for i in range(40)]
NAMES = ["great", "other"]
SHORT = ("--seconds", "2", "--warmup", "0.5", "--min-requests", "5", "--json")


@pytest.fixture(scope="module")
def served(load: Callable[[Path], TritonServer], tmp_path_factory: pytest.TempPathFactory) -> tuple[TritonServer, Path]:
    folder = tmp_path_factory.mktemp("served")
    tokenizer = train_wordpiece(TEXTS, 80, 32)
    model = tiny("bert", blocks=2, vocab_size=len(tokenizer), pad_token_id=0, id2label=dict(enumerate(NAMES)))
    save_checkpoint(model, tokenizer, folder / "checkpoint")
    export_onnx(model, tokenizer, folder / "checkpoint" / "model.onnx")
    repository = folder / "repository"
    package = Package(max_batch_size=8, intra_op_threads=1)
    model = ModelFiles(folder / "checkpoint" / "model.onnx", folder / "checkpoint")
    build_repository(TextEndpoint(), model, repository, package, "reviews")
    server = load(repository)
    answers = infer_text(server.http_url, "http", "reviews", TEXTS[:8])
    for start in range(8, len(TEXTS), 8):
        answers += infer_text(server.http_url, "http", "reviews", TEXTS[start : start + 8])
    offline = [label for label, _ in answers]
    rows = [Sample(i, text, NAMES[i % 2], label) for i, (text, label) in enumerate(zip(TEXTS, offline, strict=True))]
    write_samples(rows, folder / "samples.parquet")
    return server, folder


def loadtest(
    served: tuple[TritonServer, Path], *more: str, protocol: str = "http", model: str = "reviews"
) -> subprocess.CompletedProcess[str]:
    server, folder = served
    url = server.http_url if protocol == "http" else server.grpc_url
    command = [sys.executable, "-m", "lwc.cli.main", "loadtest", str(folder / "samples.parquet"), "--model", model]
    command += ["--url", url, "--protocol", protocol, *SHORT, *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_an_open_loop_reads_the_counters_of_both_models(served: tuple[TritonServer, Path]) -> None:
    done = loadtest(served, "--rate", "20", "--rate-tolerance", "0.9", "--metrics-url", served[0].metrics_url)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["load"], result["target_rps"], result["errors"]) == ("open_loop", 20.0, 0)
    assert result["served"]["matches_offline"] == 1.0
    models = result["server"]["models"]
    assert set(models) == {"reviews", "reviews_tokens"}
    # Counted from the window's begin to its end, as far as a machine that is busy reads the counters then.
    assert 0 < models["reviews"]["requests"] <= result["requests"] + result["warmup"]["requests"]
    # The text model sends each of its batches on as one request.
    assert models["reviews_tokens"]["requests"] == pytest.approx(models["reviews"]["executions"], abs=3)
    assert 0 < models["reviews_tokens"]["request_ms"] < models["reviews"]["request_ms"]
    mean = result["server"]["mean_ms"]
    assert mean["rest"] > 0, "the server cannot have worked longer than its client waited"
    assert "computing" in done.stderr


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_two_workers_find_every_answer_right(served: tuple[TritonServer, Path], protocol: str) -> None:
    done = loadtest(
        served, "--workers", "2", "--min-agreement", "1", "--metrics-url", served[0].metrics_url, protocol=protocol
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["served"]["matches_offline"] == 1.0
    assert result["server"]["models"]["reviews"]["requests"] > 0


def test_texts_need_no_labels_ids_or_column_names(served: tuple[TritonServer, Path]) -> None:
    server, folder = served
    (folder / "plain.txt").write_text("\n".join(TEXTS))
    (folder / "plain.csv").write_text("Customer review\n" + "\n".join(TEXTS))
    for name, words in (("plain.txt", "no labels to check"), ("plain.csv", "from the column 'Customer review'")):
        command = [sys.executable, "-m", "lwc.cli.main", "loadtest", str(folder / name), "--model", "reviews"]
        command += ["--url", server.http_url, *SHORT]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert words in done.stderr
        assert json.loads(done.stdout)["errors"] == 0
    done = subprocess.run([*command, "--min-accuracy", "0.5"], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the samples have no label" in done.stderr


def test_what_cannot_be_tested_is_one_usage_error(served: tuple[TritonServer, Path]) -> None:
    for more, model, words in (
        ((), "reviews_tokens", "input_ids INT64"),
        ((), "nobody", "unknown model"),
        (("--label-output", "category"), "reviews", "no BYTES output 'category'"),
        (("--metrics-url", served[0].http_url), "reviews", "metrics cannot be read"),
        (("--workers", "9"), "reviews", "cannot share"),
        (("--find-rate", "--max-p95-ms", "9", "--min-accuracy", "0.5"), "reviews", "do not work with --find-rate"),
    ):
        done = loadtest(served, *more, model=model)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "do:" in done.stderr


def test_an_objective_out_of_reach_fails_the_command(served: tuple[TritonServer, Path]) -> None:
    done = loadtest(served, "--find-rate", "--max-p95-ms", "0.01")
    assert done.returncode == 3, done.stderr
    assert "FAIL reviews: no rate met p95 ≤ 0.01 ms; one user alone has p50" in done.stderr
    assert json.loads(done.stdout)["models"]["reviews"]["rate_rps"] is None


@pytest.mark.slow
@pytest.mark.grid
def test_a_search_ends_with_a_rate_and_its_spread(served: tuple[TritonServer, Path]) -> None:
    # Ten requests in flight at most over ten connections: some rate below that is always met within ten seconds.
    more = ("--rate", "400", "--seconds", "1", "--max-p95-ms", "5000", "--rate-tolerance", "0.5", "--connections", "10")
    done = loadtest(served, "--find-rate", *more, "--metrics-url", served[0].metrics_url)
    assert done.returncode == 0, done.stderr
    one = json.loads(done.stdout)["models"]["reviews"]
    assert one["missed_rps"] > one["rate_rps"] > 0
    assert one["p95_ms"]["n"] >= 2
    assert {step["matches_offline"] for step in one["steps"] if step["met"]} == {1.0}
    assert "requests/s meet p95 ≤ 5000 ms" in done.stderr
