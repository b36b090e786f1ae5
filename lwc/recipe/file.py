"""Read a recipe: YAML with line numbers, overrides, and every problem of a file reported in one go."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lwc.core.errors import RecipeError
from lwc.core.spelling import LONE
from lwc.recipe import Recipe
from lwc.recipe.base import Table

# No recipe comes near it; nested aliases of a few lines are more values than memory has room for.
_MOST_VALUES = 100_000
Location = tuple[str | int, ...]
Check = Callable[[Recipe], Iterable[tuple[Location, str]]]
"""What another wing refuses in a valid recipe: where, and why."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: ``1e-5`` is a number; ``no``, ``017`` and ``12:30`` are text."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


# What pydantic says in words of Python, by its type of error.
_EXPECTED = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "a section of keys and values"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list, such as [first, second]"),
}


@dataclass
class _Document:
    value: Any
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def _construct(node: yaml.Node, loader: _Loader, where: Location, document: _Document) -> Any:
    document.lines[where] = node.start_mark.line + 1
    if len(document.lines) > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES:,} values; aliases (*name) repeat all that they stand for")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in _merged(node):
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or LONE.search(key):
                document.problems.append(
                    f"line {key_node.start_mark.line + 1}: {_dotted(where)}: a key must be plain text"
                )
                continue
            here = (*where, key)
            if key in result:
                document.problems.append(
                    f"line {key_node.start_mark.line + 1}: {_dotted(here)}: key given twice"
                    f" (first on line {document.lines[here]})"
                )
                continue
            result[key] = _construct(value_node, loader, here, document)
            document.lines[here] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, loader, (*where, i), document) for i, item in enumerate(node.value)]
    _check_text(node, where, document)
    return loader.construct_object(node)


def _merged(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """A mapping's own pairs, then those that ``<<`` merges into it and that it does not have; the first one wins."""
    own: list[tuple[yaml.Node, yaml.Node]] = []
    merged: list[tuple[yaml.Node, yaml.Node]] = []
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None:
            for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(one, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(
                        problem="<< merges sections only", problem_mark=key.start_mark
                    )
                merged += _merged(one)
        else:
            own.append((key, value))
    names = {str(key.value) for key, _ in own}
    for key, value in merged:
        if key.value not in names:
            names.add(key.value)
            own.append((key, value))
    return own


def _check_text(node: yaml.Node, where: Location, document: _Document) -> None:
    """An escape such as ``\\ud800`` is half a character: no file, terminal or request can contain it."""
    half = LONE.search(str(node.value))
    if half:
        line = node.start_mark.line + 1
        document.problems.append(f"line {line}: {_dotted(where)}: \\u{ord(half[0]):04x} is half a character")


def _parse(text: str, name: str) -> _Document:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = _Document(None)
        document.value = {} if node is None else _construct(node, loader, (), document)
        return document
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{name}: not a usable value: {error}", "write plain YAML without tags or self-references"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{name}{line}: not valid YAML: {problem}", "fix the syntax there") from error
    finally:
        if loader is not None:
            loader.dispose()


def _dotted(where: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in where) or "(top level)"


def _apply_overrides(document: _Document, overrides: Sequence[str]) -> None:
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path.strip():
            raise RecipeError(f"--set {override}: not of the form path.to.key=value", "e.g. --set train.epochs=1")
        given = _parse(text, f"--set {path}") if text.strip() else _Document(None)
        value = given.value
        document.problems += [f"--set {path}: {problem}" for problem in given.problems]
        parts: list[str | int] = [int(p) if p.isdigit() else p for p in path.strip().split(".")]
        target = document.value
        for depth, part in enumerate(parts[:-1]):
            if isinstance(target, list):
                if not isinstance(part, int) or part >= len(target):
                    raise _not_in_list(path, parts[: depth + 1], target)
                target = target[part]
            else:
                target = target.setdefault(str(part), {})
            if not isinstance(target, dict | list):
                raise RecipeError(
                    f"--set {path}: {_dotted(parts[: depth + 1])} is a single value, not a section",
                    f"set it whole: --set {_dotted(parts[: depth + 1])}=VALUE; `lwc schema` prints every key",
                )
        last = parts[-1]
        if isinstance(target, list):
            if not isinstance(last, int) or last >= len(target):
                raise _not_in_list(path, parts, target)
            target[last] = value
        else:
            target[str(last)] = value
        for depth in range(len(parts)):
            document.lines.setdefault(tuple(parts[: depth + 1]), 0)
        document.lines[tuple(parts)] = 0


def _not_in_list(path: str, parts: Sequence[str | int], items: Sequence[object]) -> RecipeError:
    where = _dotted(parts[:-1])
    hint = f"its items are {where}.0 to {where}.{len(items) - 1}" if items else "it is empty"
    return RecipeError(
        f"--set {path}: {_dotted(parts)} is not in the list",
        f"{hint}; to add one, set the list whole: --set {where}=[…]",
    )


def _models_of(annotation: object) -> list[type[BaseModel]]:
    """Every model class that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, Table):
        return list(annotation)
    return [model for part in get_args(annotation) for model in _models_of(part)]


def _accepted(info: FieldInfo) -> Any:
    """The annotation of a field; pydantic stores a `Table` that annotates the whole field as metadata."""
    return next((extra for extra in info.metadata if isinstance(extra, Table)), info.annotation)


def _tags(model: type[BaseModel]) -> set[str]:
    """The values of a model's Literal discriminators."""
    tags: set[str] = set()
    for name in ("kind", "method", "strategy"):
        info: FieldInfo | None = model.model_fields.get(name)
        if info is not None:
            tags.update(str(value) for value in get_args(info.annotation))
    return tags


def _resolve(location: Location, value: Any) -> tuple[Location, list[str], list[type[BaseModel]]]:
    """Drop union tags from a pydantic location; also the keys of the section it is in, and the sections it may be."""
    models: list[type[BaseModel]] = [Recipe]
    keys: list[str] = list(Recipe.model_fields)
    path: list[str | int] = []
    for part in location:
        tagged = [m for m in models if isinstance(part, str) and part in _tags(m)]
        if tagged and not (isinstance(value, dict) and part in value):
            models = tagged
            continue
        keys = sorted({name for model in models for name in model.model_fields})
        path.append(part)
        if isinstance(part, str):
            models = [
                sub
                for model in models
                if part in model.model_fields
                for sub in _models_of(_accepted(model.model_fields[part]))
            ]
            value = value.get(part) if isinstance(value, dict) else None
        else:
            value = value[part] if isinstance(value, list) and part < len(value) else None
    return tuple(path), keys, models


def _line(document: _Document, path: Location) -> str:
    for size in range(len(path), -1, -1):
        if path[:size] in document.lines:
            number = document.lines[path[:size]]
            return f"line {number}" if number else "--set"
    return "line 1"


def _problems(error: ValidationError, document: _Document) -> list[str]:
    unknown: list[str] = []
    missing: list[tuple[Location, str]] = []
    other: list[str] = []
    explained: set[Location] = set()
    items = error.errors(include_url=False)
    for item in items:
        path, keys, models = _resolve(item["loc"], document.value)
        where = f"{_line(document, path)}: {_dotted(path)}"
        deeper = any(i["loc"][: len(item["loc"])] == item["loc"] != i["loc"] for i in items)
        if item["type"] == "too_short" and deeper:
            continue
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(path[-1]), keys, n=1, cutoff=0.5)
            if close:
                explained.add((*path[:-1], close[0]))
            advice = f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(keys)}"
            unknown.append(f"{where}: unknown key; {advice}")
        elif item["type"] == "missing":
            missing.append((path, f"{where}: required, but not given"))
        elif item["type"] == "union_tag_not_found":
            tag = item["ctx"]["discriminator"].strip("'")
            fitting = [model for model in models if set(item["input"]) <= set(model.model_fields)] or models
            options = [str(value) for model in fitting for value in get_args(model.model_fields[tag].annotation)]
            missing.append(((*path, tag), f"{where}.{tag}: required, but not given; one of {', '.join(options)}"))
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = item.get("input")
            if item["type"] in ("union_tag_invalid", "literal_error") and isinstance(given, str | dict):
                expected = (item.get("ctx") or {}).get("expected_tags") or (item.get("ctx") or {}).get("expected", "")
                options = re.findall(r"'([^']+)'", str(expected))
                tag = (item.get("ctx") or {}).get("tag", given)
                close = difflib.get_close_matches(str(tag), options, n=1, cutoff=0.5)
                if close:
                    message += f"; did you mean {close[0]!r}?"
            if item["type"] in _EXPECTED:
                message = (
                    "empty: give it keys, or leave it out" if given is None else f"must be {_EXPECTED[item['type']]}"
                )
            shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
            other.append(f"{where}: {message}{shown}")
    # A misspelled required key is one mistake, not two; neither is a list that is "too short" only because
    # its items were refused.
    return unknown + [text for path, text in missing if path not in explained] + other


def load_recipe(path: Path, overrides: Sequence[str] = (), checks: Sequence[Check] = ()) -> Recipe:
    """Read and validate a recipe file. What ``checks`` find is listed with the recipe's other problems.

    Raises:
        RecipeError: the file is missing, is not YAML, or has problems; all of them are listed with
            file, line, field path and the nearest valid key.
    """
    try:
        data = path.read_bytes()
        # YAML may be UTF-16 too, as a byte order mark says; editors and shells of Windows write it.
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = (
            f"did you mean {path.parent / near[0]}?"
            if near
            else "give the path of a recipe, e.g. recipes/amazon_2.5x.yaml"
        )
        raise RecipeError(f"{path}: no such recipe", hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {error}", "check the path and encoding") from error
    return parse_recipe(text, str(path), overrides, checks)


def parse_recipe(text: str, name: str, overrides: Sequence[str] = (), checks: Sequence[Check] = ()) -> Recipe:
    """Validate recipe text; ``name`` is how errors call it."""
    document = _parse(text, name)
    problems = document.problems
    if not isinstance(document.value, dict):
        raise RecipeError(f"{name}: a recipe is a mapping of sections", "see `lwc schema` for the keys")
    _apply_overrides(document, overrides)
    try:
        recipe = Recipe.model_validate(document.value)
        found = [one for check in checks for one in check(recipe)]
        problems += [f"{_line(document, where)}: {_dotted(where)}: {problem}" for where, problem in found]
    except ValidationError as error:
        problems += _problems(error, document)
        recipe = None
    if problems or recipe is None:
        count = len(problems)
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise RecipeError(
            f"{name}: {count} problem{'s' if count != 1 else ''}\n{listing}",
            "fix the lines above; `lwc schema` prints every key",
        )
    return recipe
