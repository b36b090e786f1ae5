"""What every recipe section is, and the kinds of numbers in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, Union, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import CoreSchema, core_schema


class Section(BaseModel):
    """Base of every recipe section: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Lean(Section):
    """A section that leaves out of its dump, and so of cache keys, what its ``added`` fields are by default.

    A field that is added to a section thus changes no key of the recipes that do not use it.
    """

    added: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self._lean(serialize)

    def _lean(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)
        for name in self.added:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                found.pop(name, None)
        return found


class Row(Section):
    """Settings of one row of a `Table`: a task, a scoring method, a data source.

    ``implementation`` is the ``module:object`` that does the work. It is named, not imported, so that reading a recipe
    never loads torch.
    """

    implementation: ClassVar[str]
    chosen_by: ClassVar[str] = ""
    """A key that only this row has: a section with it needs no tag."""

    @classmethod
    def load(cls) -> Any:
        """The object that ``implementation`` names."""
        module, _, name = cls.implementation.partition(":")
        return getattr(import_module(module), name)


R = TypeVar("R", bound=Row)


class Table(Generic[R]):
    """Settings classes by the value of their tag: a union of recipe sections that other packages may extend.

    Used as an annotation, ``Annotated[Row, TABLE]`` validates like a pydantic tagged union of all rows.

    Args:
        tag: name of the `Literal` field that tells the rows apart, for example ``kind``.
        rows: the rows that lwc ships.
        default: the row of a section without a tag.
    """

    def __init__(self, tag: str, *rows: type[R], default: type[R] | None = None) -> None:
        self.tag = tag
        self.default = default
        self._rows: dict[str, type[R]] = {}
        for row in rows:
            self._rows[self._name(row)] = row

    def _name(self, row: type[R]) -> str:
        (name,) = get_args(row.model_fields[self.tag].annotation)
        return str(name)

    def __iter__(self) -> Iterator[type[R]]:
        return iter(self._rows.values())

    def names(self) -> list[str]:
        """The tags of all rows, in order."""
        return list(self._rows)

    def __getitem__(self, name: str) -> type[R]:
        return self._rows[name]

    def add(self, row: type[R]) -> None:
        """Add a row from outside lwc; recipes can name it from then on.

        Raises:
            ValueError: another row has this name.
        """
        name = self._name(row)
        if self._rows.get(name, row) is not row:
            raise ValueError(f"{self.tag} {name!r} is taken by {self._rows[name].__qualname__}")
        self._rows[name] = row
        for section in _sections(Section):  # sections are defined, and so rebuilt, before those that contain them
            section.model_rebuild(force=True)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        rows = tuple(self._rows.values())
        union: Any = Annotated[Union[rows], Field(discriminator=self.tag)] if len(rows) > 1 else rows[0]  # noqa: UP007
        return handler.generate_schema(Annotated[union, BeforeValidator(self._tagged)])

    def _tagged(self, value: object) -> object:
        """A section without a tag gets the default's, unless only other rows have its keys."""
        if self.default is None or not isinstance(value, dict) or self.tag in value:
            return value
        for row in self:
            if row.chosen_by and row.chosen_by in value:
                return {self.tag: self._name(row), **value}
        own = set(self.default.model_fields) - {self.tag}
        others = any(set(value) <= set(row.model_fields) for row in self)
        if set(value) <= own or (own and not others):
            return {self.tag: self._name(self.default), **value}
        return value


def _sections(parent: type[Section]) -> list[type[Section]]:
    found = [one for child in parent.__subclasses__() for one in (child, *_sections(child))]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class InWords:
    """What a text must match, told in words instead of a regular expression when it does not."""

    pattern: str
    words: str

    def check(self, value: str) -> str:
        if re.fullmatch(self.pattern, value) is None:
            raise ValueError(f"must be {self.words}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$", "description": self.words}


def _ratio(value: object) -> object:
    """Accept ``2.5`` and ``"2.5x"``; anything else is left for pydantic to refuse."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*[x×]?\s*", value)
        if match:
            return float(match.group(1))
    return value


Ratio = Annotated[float, BeforeValidator(_ratio), Field(ge=1.0, le=1000.0)]
RatioBase = Literal["blocks", "params", "size", "latency"]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[
    str,
    InWords(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "1 to 64 letters (A to Z), digits, dots, hyphens and underscores, with a letter or a digit first",
    ),
]
MetricPath = Annotated[
    str,
    InWords(
        r"[a-z0-9_]+(?:\.[a-z0-9_]+)*",
        "the path of a figure in report.json: names of small letters, digits and underscores, joined by dots,"
        " such as retention.macro_f1",
    ),
]
Address = Annotated[str, InWords(r"https?://.*", "an address that begins with http:// or https://")]
