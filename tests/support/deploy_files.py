"""Where the files of deploy/ are, and the metrics that a real Triton has."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "lwc"
MODEL = "amazon_2.5x"
# Triton 2.51.0 started by deploy/serve.sh, on a machine without a GPU:
#   curl -s 127.0.0.1:8002/metrics | sed -n 's/^# TYPE \([^ ]*\) .*/\1/p' | sort
# test_serve_sh_starts_a_real_triton compares the list with a running server.
METRICS = {
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
    "nv_cpu_utilization",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_infer_summary_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_input_summary_us",
    "nv_inference_compute_output_duration_us",
    "nv_inference_compute_output_summary_us",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_pending_request_count",
    "nv_inference_queue_duration_us",
    "nv_inference_queue_summary_us",
    "nv_inference_request_duration_us",
    "nv_inference_request_failure",
    "nv_inference_request_success",
    "nv_inference_request_summary_us",
    "nv_pinned_memory_pool_total_bytes",
    "nv_pinned_memory_pool_used_bytes",
}
# From Triton's docs/user_guide/metrics.md: nothing here has a GPU to show them.
GPU_METRICS = {
    "nv_energy_consumption",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_limit",
    "nv_gpu_power_usage",
    "nv_gpu_utilization",
}

Object = dict[str, Any]


def load(path: Path) -> list[Any]:
    """Documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]


def interpolate(text: str) -> str:
    """Compose's ``${NAME:-default}`` with nothing set; a variable without a default is an error."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "${" not in text, f"a variable without a default: {text[text.index('${') :][:40]}"
    return text


@functools.cache
def compose() -> Object:
    document: Object = yaml.safe_load(interpolate((DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    return document


@functools.cache
def dashboard() -> Object:
    document: Object = json.loads((DEPLOY / "grafana" / "dashboards" / "lwc.json").read_text(encoding="utf-8"))
    return document


def adapter_rule() -> Object:
    [rule] = load(DEPLOY / "prometheus" / "adapter-values.yaml")[0]["rules"]["custom"]
    return dict(rule)
