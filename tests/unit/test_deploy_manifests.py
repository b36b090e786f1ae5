"""deploy/: files parse, Compose fits its schema and is locked down, Prometheus is asked only for metrics that exist."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from deploy_files import CHART, DEPLOY, GPU_METRICS, METRICS, MODEL, ROOT, adapter_rule, compose, dashboard, load

from lwc.serving.triton.foreground import IMAGE

SERVICES = ["triton", "prometheus", "grafana"]
LABELS = {"model", "version", "reason", "quantile", "gpu_uuid", "instance", "job", "namespace", "pod"}


@pytest.mark.parametrize(
    "path",
    sorted(p for p in DEPLOY.rglob("*") if p.suffix in (".yaml", ".yml", ".json") and "templates" not in p.parts),
)
def test_every_file_parses(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) if path.suffix == ".json" else [d for d in yaml.safe_load_all(text) if d]


def test_every_triton_image_is_of_a_fixed_release() -> None:
    found = []
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert ":latest" not in text, path
            found += [(path.name, tag) for tag in re.findall(r"(?:tritonserver|lwc-triton):(\d\d\.\d\d)", text)]
    values = load(CHART / "values.yaml")[0]
    found.append(("values.yaml", values["image"]["tag"]))
    assert {"Dockerfile", "compose.yaml", "inferenceservice.yaml", "values.yaml"} <= {name for name, _ in found}
    assert all(tuple(map(int, tag.split("."))) >= (26, 7) for _, tag in found), found
    assert load(CHART / "Chart.yaml")[0]["appVersion"] == values["image"]["tag"]


def test_the_readme_names_files_that_are_there() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"deploy/[\w./-]*\w", text))
    assert len(named) >= 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_compose_fits_its_schema() -> None:
    spec = importlib.util.find_spec("check_jsonschema")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install check-jsonschema: it carries the Compose schema")
    [package] = spec.submodule_search_locations
    schema = json.loads((Path(package) / "builtin_schemas" / "vendor" / "compose-spec.json").read_text("utf-8"))
    jsonschema.validate(compose(), schema)
    broken = copy.deepcopy(compose())
    broken["services"]["triton"]["portz"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_compose_has_the_three_services() -> None:
    assert sorted(compose()["services"]) == sorted(SERVICES)
    assert compose()["services"]["triton"]["image"] == IMAGE


@pytest.mark.parametrize("name", SERVICES)
def test_a_compose_service_is_locked_down(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert service["user"].split(":")[0] not in ("0", "root")
    assert re.search(r":v?\d+\.\d+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["ports"]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])
    for volume in service["volumes"]:
        if isinstance(volume, dict):
            assert volume["read_only"] is True
        elif volume.startswith("."):
            source, _, mode = volume.split(":")
            assert mode == "ro"
            assert (DEPLOY / source).is_dir()


def test_compose_serves_the_repository_read_only_and_checks_the_model() -> None:
    triton = compose()["services"]["triton"]
    [volume] = triton["volumes"]
    assert (volume["target"], volume["read_only"]) == ("/models", True)
    assert volume["source"] == f"../triton_models/{MODEL}"
    assert triton["environment"]["LWC_MODEL"] == MODEL
    assert triton["healthcheck"]["test"] == ["CMD", "python3", "/opt/lwc/ready.py"]
    assert triton["shm_size"]
    assert any(entry.startswith("/tmp:") for entry in triton["tmpfs"])
    assert (DEPLOY / triton["build"]["context"] / triton["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


def test_prometheus_and_grafana_find_each_other() -> None:
    [config] = load(DEPLOY / "prometheus" / "prometheus.yml")
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["triton:8002"]}]
    grafana = compose()["services"]["grafana"]
    targets = {target: source for source, target, _ in (volume.split(":") for volume in grafana["volumes"])}
    [provider] = load(DEPLOY / "grafana/provisioning/dashboards/lwc.yaml")[0]["providers"]
    assert (DEPLOY / targets[provider["options"]["path"]] / "lwc.json").is_file()
    assert "/etc/grafana/provisioning" in targets
    [source] = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")[0]["datasources"]
    assert source["url"] == "http://prometheus:9090"
    uids = {target["datasource"]["uid"] for panel in dashboard()["panels"] for target in panel["targets"]}
    assert uids == {source["uid"]}


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of everything that asks Prometheus, its templates filled in."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "1m")
    for variable in dashboard()["templating"]["list"]:
        yield f"variable {variable['name']}", re.sub(r"label_values\((.*), *\w+\)", r"\1", variable["definition"])
    for group in load(DEPLOY / "prometheus" / "alerts.yml")[0]["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    rule = adapter_rule()
    yield "adapter series", rule["seriesQuery"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="n",pod=~"p"')
    yield "adapter query", query


def selectors(node: Any) -> Iterator[Any]:
    """Vector selectors of a parsed expression."""
    if hasattr(node, "matchers") and hasattr(node, "name"):
        yield node
        return
    for attribute in ("lhs", "rhs", "expr", "param", "args", "vector_selector"):
        child = getattr(node, attribute, None)
        for each in child if isinstance(child, list) else [child]:
            if each is not None:
                yield from selectors(each)


def unknown_names(expression: str) -> list[str]:
    """Metrics and labels of a PromQL expression that Triton and Prometheus do not have; ValueError for bad PromQL."""
    parser = pytest.importorskip("promql_parser", reason="pip install promql-parser")
    found = list(selectors(parser.parse(expression)))
    assert found, f"no metric in {expression}"
    known = METRICS | GPU_METRICS | {"up"}
    wrong = [str(selector.name) for selector in found if selector.name not in known]
    return wrong + [m.name for s in found for m in s.matchers.matchers if m.name not in LABELS]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_is_promql_over_metrics_that_exist(where: str, expression: str) -> None:
    assert unknown_names(expression) == [], where


def test_a_misspelt_metric_or_bad_promql_would_be_found() -> None:
    assert unknown_names('sum(rate(nv_inference_requests_total{modell="a"}[1m])) / rate(nv_inference_count[1m])') == [
        "nv_inference_requests_total",
        "modell",
    ]
    with pytest.raises(ValueError, match=r".+"):
        unknown_names("sum(rate(nv_inference_count[1m])")


def test_the_dashboard_shows_what_operators_ask_for() -> None:
    used = set(re.findall(r"nv_\w+", " ".join(expression for where, expression in expressions() if "panel" in where)))
    assert {
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_request_summary_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_pending_request_count",
        "nv_inference_exec_count",
        "nv_cpu_utilization",
        "nv_cpu_memory_used_bytes",
        "nv_gpu_utilization",
    } <= used
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on each other"
    assert max(x for x, _ in cells) == 23
