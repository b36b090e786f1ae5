"""The ``model.py`` of a Python model, parsed and never imported: its syntax, class, environment and imports."""

from __future__ import annotations

import ast
import sys
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from lwc.export.onnx_io import is_lfs_pointer
from lwc.serving.checks.model import ENVIRONMENT, Finding, Model, Repository, escapes
from lwc.serving.triton.environment import MODULES

_CLASS = "TritonPythonModel"
_MODEL_FOLDER = "$$TRITON_MODEL_DIRECTORY"
# What the server puts on the path of every Python model.
_GIVEN = {"triton_python_backend_utils", "c_python_backend_utils"}
# Arguments that Triton calls each method with, after self.
_METHODS = {"__init__": 0, "initialize": 1, "execute": 1, "finalize": 0}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_python(model: Model, repository: Repository) -> Iterator[Finding]:
    """Every served version of a model of the Python backend."""
    del repository
    yield from _environment(model)
    name = model.file_name
    for version in model.served.values():
        path = version / str(name)
        if name is not None and not escapes(name) and path.is_file() and not is_lfs_pointer(path):
            tree = _parse(model, path)
            if isinstance(tree, Finding):
                yield tree
            else:
                yield from _class(model.at(path), tree)
                if model.parameter(ENVIRONMENT) is None:
                    yield from _imports(model.at(path), tree)


def _parse(model: Model, path: Path) -> ast.Module | Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the model's own code: an escape that is none
            return ast.parse(path.read_bytes())
    except SyntaxError as error:
        line = f" in line {error.lineno}" if error.lineno else ""
        return model.error(f"does not parse: {error.msg}{line}", "repair it", path)
    except (ValueError, RecursionError, MemoryError) as error:  # a zero byte; code nested too deeply
        return model.error(f"does not parse: {error or type(error).__name__}", "repair it", path)


def _class(file: Model, tree: ast.Module) -> Iterator[Finding]:
    """``TritonPythonModel`` and the arguments of its methods; nothing of what comes from another module."""
    found: ast.ClassDef | None = None
    for statement in _executed(tree.body):
        if isinstance(statement, ast.ClassDef) and statement.name == _CLASS:
            found = statement
        elif _CLASS in _bound(statement) or "*" in _bound(statement):
            return
    if found is None:
        near = [one.name for one in _executed(tree.body) if isinstance(one, ast.ClassDef)]
        there = f": its classes are {near}" if near else ""
        yield file.error(f"no class {_CLASS}{there}", f"write `class {_CLASS}:` with `def execute(self, requests)`")
        return
    methods: dict[str, ast.stmt] = {}
    for statement in _executed(found.body):
        methods |= dict.fromkeys(_bound(statement), statement)
    inherits = bool(found.bases or found.keywords or found.decorator_list)
    if "execute" not in methods and not inherits:
        yield file.error(
            f"class {_CLASS} in line {found.lineno} has no execute: every request fails",
            "write `def execute(self, requests)`",
        )
    for name, count in _METHODS.items():
        method = methods.get(name)
        if isinstance(method, _Function) and not method.decorator_list and not _takes(method.args, count + 1):
            wanted = ["self", *(["args"] if name == "initialize" else ["requests"])[:count]]
            yield file.error(
                f"{name} in line {method.lineno} does not take the arguments ({', '.join(wanted)})",
                f"write `def {name}({', '.join(wanted)})`",
            )


def _takes(arguments: ast.arguments, count: int) -> bool:
    """Whether a function can be called with ``count`` positional arguments."""
    places = len(arguments.posonlyargs) + len(arguments.args)
    required = places - len(arguments.defaults)
    keywords = any(default is None for default in arguments.kw_defaults)
    return required <= count and (places >= count or arguments.vararg is not None) and not keywords


def _executed(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that an import of the module may run: also those under if, try, for and with, not in functions."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(statement, _Function | ast.ClassDef):
                yield from _executed(getattr(statement, part, ()))
        for handler in getattr(statement, "handlers", ()):
            yield from _executed(handler.body)


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement gives a value; ``*`` for those of a whole module."""
    if isinstance(statement, _Function | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return set()


def _imports(file: Model, tree: ast.Module) -> Iterator[Finding]:
    """Packages that the embedded server's environment does not have."""
    path = file.reported or file.folder
    missing: dict[str, int] = {}
    for name, line in _required(tree):
        local = any((folder / name).is_dir() or any(folder.glob(f"{name}.*")) for folder in (path.parent, file.folder))
        if not (local or name in _GIVEN or name in sys.stdlib_module_names or name in missing) and name not in MODULES:
            missing[name] = line
    for name, line in missing.items():
        yield file.note(
            f"imports {name} in line {line}, which the embedded server's Python does not have",
            f"install it where the model is served, or set {ENVIRONMENT}",
        )


def _required(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Top-level names of what is imported, and where; not what may fail, nor what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level and node.module:
                yield node.module.split(".")[0], node.lineno
        elif isinstance(node, ast.Try) and node.handlers:
            continue
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield from _required(node)


def _environment(model: Model) -> Iterator[Finding]:
    """The packed environment that the configuration names: there, inside the model, and of the kind Triton unpacks."""
    value = model.parameter(ENVIRONMENT)
    if not value:
        return
    where = f"{ENVIRONMENT} {value!r}"
    inside = value.startswith(f"{_MODEL_FOLDER}/")
    name = value.removeprefix(f"{_MODEL_FOLDER}/")
    if value.startswith("$") and not inside:
        yield model.error(
            f"{where}: Triton does not know this variable", f"write {_MODEL_FOLDER}/ for the model's own folder"
        )
        return
    if inside and escapes(name):
        yield model.error(f"{where} leads out of the model folder", "put the environment into the model folder")
        return
    if "\0" in name:
        yield model.error(f"{where} is no path", "write one")
        return
    path = model.folder / name if inside else Path(name)
    if not inside:
        yield model.warning(
            f"{where}: a path of the machine that serves" + ("" if path.exists() else ", and not on this one"),
            f"put it into the model folder and write {_MODEL_FOLDER}/{path.name}",
        )
    elif not path.exists():
        yield model.error(
            f"{where}: no such file, {model.path(path)}", "pack the environment with conda-pack, or copy it"
        )
    elif path.is_dir():
        if not (path / "bin" / "activate").is_file():
            yield model.error(f"{where}: the folder has no bin/activate", "unpack an environment of conda-pack there")
    elif not _is_archive(path):
        yield model.error(f"{where}: not a tar archive", "pack one with conda-pack")


def _is_archive(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, ValueError):  # a compressed file that ends in its first block
        return False
