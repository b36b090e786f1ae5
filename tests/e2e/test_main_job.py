"""The main job as a user runs it: the command line, real reviews, a real Triton server, real Locust."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from card import run_card
from grid import kept
from measured_figures import differences

import lwc as api
from lwc.data.splits import load_labels, load_split
from lwc.models.load import load_model
from lwc.pipeline.run import plan
from lwc.pipeline.stages import stages_until
from lwc.recipe.file import load_recipe
from lwc.report.build import report_schema
from lwc.serving.triton.server import TritonServer
from lwc.tasks.text import model_logits

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "recipes" / "tiny.yaml"


def lwc(*arguments: str | Path, cwd: Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lwc.cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def digests(folder: Path) -> dict[str, str]:
    """Stage name → digest of its result, from the manifests of a run's store."""
    found = {}
    for manifest in (folder / "runs" / ".store").glob("*/*/manifest.json"):
        content = json.loads(manifest.read_text())
        weights = {name: entry["sha256"] for name, entry in content["files"].items() if "model" in name}
        found[content["stage"]] = json.dumps(weights, sort_keys=True)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which the tiny recipe ran from end to end."""
    folder = tmp_path_factory.mktemp("run")
    return folder, lwc("run", TINY, "--json", cwd=folder)


@pytest.fixture(scope="module")
def report(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    folder, done = finished
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / "runs" / "tiny" / "report.json").read_text()))


@pytest.mark.serving
@pytest.mark.slow
class TestMainJob:
    def test_it_passes_its_gates_and_says_what_data_it_used(
        self, finished: tuple[Path, subprocess.CompletedProcess[str]], report: dict[str, Any]
    ) -> None:
        _, done = finished
        assert json.loads(done.stdout)["verdict"]["passed"] is True
        assert all(gate["passed"] for gate in report["gates"])
        assert len(report["gates"]) == 6
        assert "amazon-sample" in done.stderr
        assert "amazon-sample" in json.dumps(report["data"])

    def test_it_says_what_each_stage_is_for_and_where_everything_is(
        self, finished: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        folder, done = finished
        lines = done.stderr.splitlines()
        assert [line.split()[1] for line in lines if line.startswith("…")] == [*stages_until(None), "report"]
        assert "… recover   the uncut model teaches the cut one, 40 steps" in lines
        assert "never run" not in done.stderr
        assert sum(line.startswith("pass ") for line in lines) == 6
        assert lines[-5:] == [
            "model       runs/tiny/model (Hugging Face folder with its model card)",
            "report      runs/tiny/report.html",
            "repository  triton_models/tiny",
            "next        lwc serve triton_models/tiny",
            "            lwc push runs/tiny USER/NAME",
        ]
        assert (folder / "runs" / "tiny" / "model" / "model.safetensors").is_file()

    def test_the_report_names_every_artifact(
        self, finished: tuple[Path, subprocess.CompletedProcess[str]], report: dict[str, Any]
    ) -> None:
        made, run = report["artifacts"], finished[0] / "runs" / "tiny"
        assert made["published"]
        assert set(made["onnx"]) == {"base", "compressed", "served"}
        assert "report.html" in made["report"]
        for name in (made["model"], *made["onnx"].values(), *made["repositories"], *made["report"]):
            assert not Path(name).is_absolute()
            assert (run / name).exists(), name

    def test_the_report_follows_its_schema(self, report: dict[str, Any]) -> None:
        jsonschema.validate(report, report_schema())

    def test_a_gate_may_name_what_was_measured_and_nothing_else(self, report: dict[str, Any]) -> None:
        assert differences(report, load_recipe(TINY)) == ([], [])

    def test_served_answers_are_the_offline_ones(self, report: dict[str, Any]) -> None:
        for protocol in ("http", "grpc"):
            measured = report["serving"][protocol]
            assert measured["errors"] == 0
            assert measured["requests"] >= 20
            assert measured["served"]["matches_offline"] == 1.0
            assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p95"] <= measured["latency_ms"]["p99"]

    def test_ratios_are_four_and_named(self, report: dict[str, Any]) -> None:
        assert set(report["ratios"]) == {"blocks", "params", "size", "latency"}
        assert report["ratios"]["blocks"] == 2.0
        assert 1.0 < report["ratios"]["params"] < 2.0, "embeddings do not shrink"

    def test_everything_is_beside_the_report(self, finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        folder, _ = finished
        run = folder / "runs" / "tiny"
        assert {"report.json", "report.md", "report.html"} <= {p.name for p in run.iterdir()}
        assert list(run.glob("*.png"))
        repository = folder / "triton_models" / "tiny"
        assert (repository / "tiny" / "config.pbtxt").is_file()

    def test_a_second_run_reuses_every_stage(self, finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        folder, _ = finished
        done = lwc("run", TINY, "--until", "package", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("reused") == 9

    def test_a_gate_changes_the_verdict_and_retrains_nothing(
        self, finished: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        folder, _ = finished
        stricter = ("--set", "gates.0.value=9")
        plan = json.loads(lwc("plan", TINY, *stricter, "--json", cwd=folder).stdout)
        assert [row["stage"] for row in plan if not row["hit"]] == ["verify"]
        done = lwc("report", TINY, *stricter, cwd=folder)
        assert done.returncode == 3, done.stderr
        assert "FAIL ratios.blocks" in done.stderr
        lines = done.stderr.splitlines()
        assert "Do not deploy: 1 of 6 gates failed." in lines
        assert "FAIL ratios.blocks is 2, must be >= 9: short by 7" in lines
        assert "repository  triton_models/tiny" in lines, "it is still where the run has published it"
        again = lwc("report", TINY, cwd=folder)
        assert again.returncode == 0
        verdict = finished[1].stderr[finished[1].stderr.index("\nRemoved ") :]
        assert again.stderr.endswith(verdict), "as the run ended"

    def test_another_way_to_the_same_blocks_recovers_nothing_again(
        self, finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        shutil.copytree(finished[0] / "runs", tmp_path / "runs")
        for way, reused in (("drop_top", 3), ("random, keep_first: 2", 5)):  # data, train, score; recover, evaluate
            select = ("--set", f"select={{strategy: {way}}}", "--set", "name=other")
            done = lwc("run", TINY, *select, "--until", "evaluate", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "keep [0, 1]" in done.stderr
            assert done.stderr.count("reused") == reused, done.stderr

    @pytest.mark.parametrize("protocol", kept(["http", "grpc"], ["http"]))
    def test_the_published_repository_is_served_and_load_tested_by_hand(
        self,
        finished: tuple[Path, subprocess.CompletedProcess[str]],
        load: Callable[[Path], TritonServer],
        tmp_path: Path,
        protocol: str,
    ) -> None:
        folder, _ = finished
        samples = folder / "runs" / "tiny" / "verify" / "samples.parquet"
        server = load(folder / "triton_models" / "tiny")
        url = server.http_url if protocol == "http" else server.grpc_url
        command = ("loadtest", samples, "--url", url, "--model", "tiny", "--protocol", protocol)
        short = ("--users", "2", "--seconds", "3", "--warmup", "1", "--min-requests", "20")
        done = lwc(*command, *short, "--out", tmp_path / "load", "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        measured = json.loads(done.stdout)
        assert measured["served"]["matches_offline"] == 1.0
        strict = lwc(*command, *short, "--out", tmp_path / "strict", "--max-p95-ms", "0.001", cwd=folder)
        assert strict.returncode == 3, "a threshold that cannot be met must fail the command"
        assert "FAIL" in strict.stderr

    def test_the_published_model_gives_the_measured_logits_without_lwc(
        self, finished: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        folder, _ = finished
        store = folder / "runs" / ".store"
        (data,), (measured,), (evaluated,) = (
            list((store / stage).iterdir()) for stage in ("data", "recover", "evaluate")
        )
        test = load_split(data, "test")
        expected, _ = model_logits(measured / "model", test, load_recipe(TINY))
        (folder / "texts.json").write_text(json.dumps(test.texts))
        more = (
            "import json\n"
            f"texts = json.load(open({str(folder / 'texts.json')!r}))\n"
            "read = dict(truncation=True, max_length=32, return_tensors='pt')\n"
            "found = [model(**tokenizer([text], **read)).logits[0].tolist() for text in texts]\n"
            "print(json.dumps([found, model.config.id2label]))\n"
        )
        found, labels = json.loads(run_card(folder / "runs" / "tiny" / "model", more).splitlines()[-1])
        assert np.allclose(found, expected, atol=1e-5)
        predicted = pq.read_table(evaluated / "predictions.parquet")
        order = {row: place for place, row in enumerate(predicted["id"].to_pylist())}
        answers = [predicted["compressed"][order[row]].as_py() for row in test.ids]
        assert np.argmax(found, axis=1).tolist() == answers
        assert labels == {"0": "great", "1": "other"}


KILL_POINTS = ("train", "remove", "export")


@pytest.mark.slow
@pytest.mark.parametrize("stage", kept(KILL_POINTS, ["train"]))
def test_killed_at_any_stage_it_resumes_to_the_same_result(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, stage: str
) -> None:
    folder, whole = finished
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "lwc.cli.main", "run", str(TINY), "--until", "export"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = tmp_path / "runs" / ".store"
    # In training: after the first checkpoint, so that a resume in the middle is what happens.
    pattern = "work/train-*/scratch/*" if stage == "train" else f"work/{stage}-*/out"
    deadline = time.monotonic() + 240
    while not list(store.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, f"ended before {stage} could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(store.glob(f"{stage}/*/manifest.json"))
    done = lwc("run", TINY, "--until", "export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected, got = digests(folder), digests(tmp_path)
    for name in ("train", "remove", "recover", "export"):
        assert got[name] == expected[name], f"{name} differs after a kill in {stage}"


@pytest.mark.serving
@pytest.mark.slow
def test_the_python_api_gives_what_the_stages_did(
    finished: tuple[Path, subprocess.CompletedProcess[str]], report: dict[str, Any], tmp_path: Path
) -> None:
    folder, _ = finished
    runs = folder / "runs"
    ran = api.run(TINY, runs=runs, triton_models=tmp_path)
    assert (ran.passed, ran.folder) == (True, runs / "tiny")
    assert ran.report["quality"] == report["quality"]
    stages = {one.stage.name: one.artifact for one in plan(load_recipe(TINY), runs) if one.artifact is not None}
    base, data = stages["train"].path / "model", stages["data"].path
    calibration, names = load_split(data, "calibration"), load_labels(data)
    importance = api.score(base, None, calibration.texts, [names[label] for label in calibration.labels])
    scored = json.loads((stages["score"].path / "importance.json").read_text())
    assert importance.content["fused"] == scored["fused"]
    assert importance.scores == {name: one["scores"] for name, one in scored["methods"].items()}
    smaller = api.remove_blocks(base, importance.lowest(2)).state_dict()
    cut = load_model(stages["remove"].path / "model").state_dict()
    assert smaller.keys() == cut.keys()
    assert all(torch.equal(weight, cut[name]) for name, weight in smaller.items())
    done = lwc("export", runs / "tiny", "--to", "onnx", "--out", "onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    exported = stages["export"].path / "compressed" / "model.onnx"
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == exported.read_bytes()


@pytest.mark.slow
def test_interrupted_it_exits_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lwc.cli.main", "run", str(TINY), "--until", "train"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob(".store/work/train-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "rerun the same command" in said


def test_help_validate_and_plan_load_nothing_heavy(tmp_path: Path) -> None:
    """What makes them start in a moment; how long that takes is the machine's affair."""
    heavy = (
        "torch",
        "transformers",
        "onnx",
        "onnxruntime",
        "sklearn",
        "scipy",
        "matplotlib",
        "pandas",
        "numpy",
        "locust",
    )
    for arguments in (["--help"], ["validate", str(TINY)], ["plan", str(TINY)], ["schema"]):
        code = (
            "import sys\n"
            f"sys.argv = ['lwc', *{arguments!r}]\n"
            "from lwc.cli.main import main\n"
            "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
            f"loaded = set({heavy!r}) & set(sys.modules)\n"
            "assert not loaded, loaded"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
