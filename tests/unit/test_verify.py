"""verify(): the test split joined with the offline predictions, served by a fake server, compared by name."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pytest

if importlib.util.find_spec("locust") is None:  # not imported: it would patch this process
    pytest.skip("locust is not installed", allow_module_level=True)
pytest.importorskip("tritonclient.grpc")

from lwc.core.errors import DataError
from lwc.recipe import FromConfig, Recipe, Target, Verify
from lwc.serving.triton.repository import ModelFiles
from lwc.serving.verify import run as module
from lwc.serving.verify.run import Packaged
from lwc.tasks.text_endpoint import TextEndpoint

NAMES = ["other", "great"]
ROWS = 24
BASE = ModelFiles(Path("never-read.onnx"), Path("never-read"))


def folders(root: Path) -> tuple[Path, Path, dict[str, str]]:
    data, evaluation = root / "data", root / "evaluation"
    data.mkdir()
    evaluation.mkdir()
    (data / "labels.json").write_text(json.dumps(NAMES))
    labels = [i % 2 for i in range(ROWS)]
    predicted = [y if i % 6 else 1 - y for i, y in enumerate(labels)]
    texts = [f"review {i} ☕" for i in range(ROWS)]
    ids = list(range(50, 50 + ROWS))
    test = pd.DataFrame({"id": ids, "text": texts, "label": labels, "user": None, "item": None, "time": None})
    test.to_parquet(data / "test.parquet", index=False)
    test[["id", "text"]].iloc[:0].to_parquet(data / "test_raw.parquet", index=False)
    frame = pd.DataFrame({"id": ids, "label": labels, "base": labels, "unrecovered": 0, "compressed": predicted})
    # Another row order than the split's: rows belong together by id.
    frame.iloc[::-1].to_parquet(evaluation / "predictions.parquet", index=False)
    return data, evaluation, {t: NAMES[p] for t, p in zip(texts, predicted, strict=True)}


def recipe() -> Recipe:
    return Recipe(
        schema_version=1,
        name="m",
        model=FromConfig(kind="config"),
        target=Target(ratio=2.0, of="blocks"),
        verify=Verify(users=2, seconds=1.0, warmup_seconds=0.2, min_requests=3),
    )


def quiet(_: str) -> None:
    """No progress."""


class FakeTriton:
    """Stands where TritonServer stands; ``settings`` is set by the test."""

    settings: Path

    def __init__(self, repository: Path, *, startup_seconds: float) -> None:
        assert startup_seconds == 60.0
        self.log_path = self.settings

    def __enter__(self) -> FakeTriton:
        script = Path(__file__).parents[1] / "support" / "fake_triton.py"
        self.child = subprocess.Popen([sys.executable, str(script), str(self.settings)], stdout=subprocess.PIPE)
        assert self.child.stdout is not None
        ports = json.loads(self.child.stdout.readline())
        self.http_url, self.grpc_url = f"http://127.0.0.1:{ports['http']}", f"127.0.0.1:{ports['grpc']}"
        self.metrics_url = self.http_url
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self.child.kill()
        self.child.wait()


def serve(root: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], **faults: Any) -> None:
    settings = root / "fake.json"
    settings.write_text(json.dumps({"model": "m", "names": NAMES, "answers": answers, **faults}))
    monkeypatch.setattr(FakeTriton, "settings", settings, raising=False)
    monkeypatch.setattr(module, "TritonServer", FakeTriton)


def test_both_protocols_equal_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, evaluation, answers = folders(tmp_path)
    serve(tmp_path, monkeypatch, answers)
    said: list[str] = []
    out = tmp_path / "out"
    serving = module.verify(recipe(), Packaged(tmp_path, data, evaluation, BASE), out, said.append)
    assert list(serving) == ["http", "grpc"]
    for protocol, result in serving.items():
        served = result["served"]
        assert served["n"] == ROWS
        assert served["covered_all"]
        assert served["accuracy"] == served["offline_accuracy"] == pytest.approx(20 / 24)
        assert served["matches_offline"] == 1.0
        assert served["label_names"] == NAMES
        assert served["confusion"] == [[8, 4], [0, 12]]
        assert (out / f"latencies_{protocol}.npy").is_file()
        assert result["server"]["models"]["m"]["queue_ms"] == pytest.approx(3.0)
        assert "computing" in result["why"][0]
    assert json.loads((out / "serving.json").read_text(encoding="utf-8")) == serving
    assert (out / "server.log").is_file()
    assert len(said) == 4


def test_a_time_too_short_for_every_text_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, evaluation, answers = folders(tmp_path)
    serve(tmp_path, monkeypatch, answers, delay_s=0.13)
    serving = module.verify(recipe(), Packaged(tmp_path, data, evaluation, BASE), tmp_path / "out", quiet)
    served = serving["grpc"]["served"]
    assert 3 <= served["n"] < ROWS
    assert served["covered_all"] is False
    assert "time ended after" in served["note"]
    # Over the very texts that were answered, which come in the split's order from the first on.
    wrong = sum(i % 6 == 0 for i in range(served["n"]))
    assert served["offline_accuracy"] == pytest.approx(1 - wrong / served["n"])
    assert served["accuracy_difference"] == 0.0


@pytest.mark.parametrize("change", ["rows", "labels", "range"])
def test_folders_that_do_not_belong_together(tmp_path: Path, change: str) -> None:
    data, evaluation, _ = folders(tmp_path)
    frame = pd.read_parquet(evaluation / "predictions.parquet")
    if change == "rows":
        frame = frame.iloc[1:]
    elif change == "labels":
        frame["label"] = 1 - frame["label"]
    else:
        frame["compressed"] = 2
    frame.to_parquet(evaluation / "predictions.parquet", index=False)
    with pytest.raises(DataError):
        TextEndpoint().proof(data, evaluation)


def test_the_limit_is_searched_for_compressed_and_base_in_one_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, evaluation, answers = folders(tmp_path)
    serve(tmp_path, monkeypatch, answers, also=["m_base"])
    asked: dict[str, Any] = {}

    def search(endpoints: Any, objective: Any, *rest: Any) -> dict[str, Any]:
        asked.update(models=[endpoint.model for endpoint in endpoints], p95=objective.max_p95_ms)
        found = {"rate_rps": 90.0, "missed_rps": 100.0, "steps": [], "why": [], "p95_ms": None, "achieved_rps": None}
        return {"objective": {}, "models": dict.fromkeys(asked["models"], found), "ratio": {"value": 1.0}}

    def build(endpoint: Any, files: ModelFiles, out: Path, package: Any, name: str) -> None:
        asked.update(base=files, name=name, beside=sorted(path.name for path in out.iterdir()))

    monkeypatch.setattr(module, "build_repository", build)
    monkeypatch.setattr(module, "find_rates", search)
    repository = tmp_path / "repository"
    (repository / "m").mkdir(parents=True)
    changed = recipe().model_copy(
        update={"verify": Verify(**{**recipe().verify.model_dump(), "find_rate": {"max_p95_ms": 40.0}})}
    )
    serving = module.verify(changed, Packaged(repository, data, evaluation, BASE), tmp_path / "out", quiet)
    assert asked == {"models": ["m", "m_base"], "p95": 40.0, "base": BASE, "name": "m_base", "beside": ["m"]}
    assert serving["http"]["limit"]["compressed"]["rate_rps"] == 90.0
    assert "limit" not in serving["grpc"]


def test_an_open_loop_that_falls_behind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, evaluation, answers = folders(tmp_path)
    serve(tmp_path, monkeypatch, answers, delay_s=0.05, one_at_a_time=True)
    settings = {**recipe().verify.model_dump(), "rate": 60.0, "seconds": 1.5, "protocols": ("http",)}
    changed = recipe().model_copy(update={"verify": Verify(**settings)})
    result = module.verify(changed, Packaged(tmp_path, data, evaluation, BASE), tmp_path / "out", quiet)["http"]
    assert (result["load"], result["users"], result["target_rps"]) == ("open_loop", 64, 60.0)
    assert "were due" in result["shortfall"]
