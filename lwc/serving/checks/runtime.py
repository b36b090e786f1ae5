"""What an ONNX file needs of ONNX Runtime: its IR version, its opsets and its operators.

The embedded server runs the version installed here, which is asked; the one in the official image is a row here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import onnx
from onnx import helper

from lwc.serving.checks.model import Finding, Model, Repository

# The first opset whose operators ONNX Runtime implements.
_FIRST_OPSET = 7


@dataclass(frozen=True)
class Runtime:
    """An ONNX Runtime: the highest IR version it reads, and the highest opset of each domain."""

    name: str
    ir: int
    opsets: Mapping[str, int]

    def highest(self, domain: str) -> int | None:
        return self.opsets.get(domain)


# Read off the Python package of that version; which version it is, NVIDIA's release notes say.
IMAGE = Runtime("1.27.0 (official image 26.07)", 13, {"": 26, "ai.onnx.ml": 5, "com.microsoft": 1})


@cache
def _schemas() -> Mapping[tuple[str, str], list[tuple[int, bool]]]:
    """Of every operator (domain, name) of the installed runtime: since which opset, and whether it was dropped then."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    found = defaultdict(list)
    for schema in get_all_operator_schema():
        found[schema.domain, schema.name].append((schema.since_version, schema.deprecated))
    return {key: sorted(since) for key, since in found.items()}


@cache
def installed() -> Runtime:
    """The ONNX Runtime of the embedded server."""
    import onnxruntime

    opsets: dict[str, int] = {}
    for (domain, _), since in _schemas().items():
        opsets[domain] = max(opsets.get(domain, 0), since[-1][0])
    return Runtime(f"{onnxruntime.__version__} (embedded)", _highest_ir(), opsets)


def _highest_ir() -> int:
    """The runtime names its highest IR version only where it refuses a file."""
    import onnxruntime

    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "empty", [value], [value])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        model = helper.make_model(graph, ir_version=2**30)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds
        named = re.search(r"max supported IR version: (\d+)", str(error))
        if named:
            return int(named[1])
    return int(onnx.IR_VERSION)


def check_runtime(model: Model, repository: Repository) -> Iterator[Finding]:
    """Every ONNX file of a model against both runtimes."""
    del repository
    for path, read in model.graphs.items():
        if isinstance(read, onnx.ModelProto):
            file = model.at(path)
            if read.ir_version > min(installed().ir, IMAGE.ir):
                yield _above(file, "IR version", "", read.ir_version, installed().ir, IMAGE.ir)
            faults = list(_opsets(file, read))
            yield from faults
            if not any(fault.severity == "error" for fault in faults):
                yield from _operators(file, read)


def _above(file: Model, what: str, of: str, version: int, here: int, image: int) -> Finding:
    """A version that one of the runtimes does not reach: an error where the embedded server is the one."""
    least = min(here, image)
    return (file.error if version > here else file.warning)(
        f"{what} {version}{of}: ONNX Runtime {installed().name} reads up to {here}, {IMAGE.name} up to {image}",
        f"export it with {what} {least}" + (" or lower" if least > 1 else ""),
    )


def _opsets(file: Model, read: onnx.ModelProto) -> Iterator[Finding]:
    if not read.opset_import:
        yield file.error("imports no opset", "export it again")
    wanted: dict[str, int] = {}
    for entry in (*read.opset_import, *(entry for function in read.functions for entry in function.opset_import)):
        domain = _plain(entry.domain)
        wanted[domain] = max(wanted.get(domain, 0), entry.version)
    for domain, version in wanted.items():
        here, image = installed().highest(domain), IMAGE.highest(domain)
        of = f" of {domain or 'ai.onnx'}"
        if here is not None and version > min(here, here if image is None else image):
            yield _above(file, "opset", of, version, here, here if image is None else image)
        elif not domain and version < _FIRST_OPSET:
            yield file.warning(
                f"opset {version}{of}: ONNX Runtime implements {_FIRST_OPSET} and later",
                "convert it with onnx.version_converter",
            )


def _operators(file: Model, read: onnx.ModelProto) -> Iterator[Finding]:
    """Operators that the installed runtime does not have, by domain and opset."""
    own = {(_plain(function.domain), function.name) for function in read.functions}
    domains = {domain for domain, _ in _schemas()}
    missing: dict[tuple[str, int | None], set[str]] = defaultdict(set)
    for scope in (read, *read.functions):
        imported = {_plain(entry.domain): entry.version for entry in scope.opset_import}
        for node in _nodes(scope.graph.node if isinstance(scope, onnx.ModelProto) else scope.node):
            domain = _plain(node.domain)
            if (domain, node.op_type) in own:
                continue
            version = imported.get(domain, installed().highest(domain) or 1)
            since = [entry for entry in _schemas().get((domain, node.op_type), ()) if entry[0] <= version]
            if not since or since[-1][1]:
                missing[domain, version if domain in domains else None].add(node.op_type)
    library = list(file.config.model_operations.op_library_filename)
    for (domain, opset), names in missing.items():
        what = f"operators {sorted(names)} of domain {domain or 'ai.onnx'}"
        if opset is not None:
            yield file.error(
                f"{what}: ONNX Runtime {installed().name} has none of that name in opset {opset}",
                "export it with an opset that has them",
            )
        elif library:
            yield file.warning(
                f"{what}: from {library}, which the embedded server does not load", "serve it with the official image"
            )
        else:
            yield file.error(
                f"{what}: ONNX Runtime {installed().name} does not know the domain",
                "export without custom operators, or name their library in model_operations",
            )


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _nodes(nodes: Iterator[onnx.NodeProto] | list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner.node)
