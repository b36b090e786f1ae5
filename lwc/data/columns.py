"""The columns that a reader needs of a table, and one clear error for each way they can be missing."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lwc.core.errors import DataError
from lwc.data.rows import excerpt

_SHOWN = 12


@dataclass(frozen=True)
class Wanted:
    """What is read of a table.

    Args:
        fields: column names by the field they fill.
        other: columns that are used if the table has them.
        hint: what to do about a missing column.
        options: where the recipe describes the format, such as ``data.source.format``; None if it cannot.
        nested: whether a value may be a list or an object.
    """

    fields: Mapping[str, str]
    other: Sequence[str] = ()
    hint: str = "fix data.source.columns"
    options: str | None = "data.source.format"
    nested: bool = False
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(self.fields.values()))

    def spelled(self, name: str) -> str:
        """A column's name as the recipe spells it, if they differ in white space or in what does not show."""
        key = "" if name in self.names else _shown(name)
        return next((one for one in self.names if _shown(one) == key), name) if key else name

    def missing(self, present: Sequence[str]) -> list[str]:
        """The needed columns that a table does not have."""
        return [name for name in self.fields.values() if name not in present]

    def check(self, present: Sequence[str], where: str, advice: str = "") -> None:
        """Raise `DataError` for a column that the table lacks, with the nearest one, or has twice.

        ``advice`` is what the table itself suggests to do.
        """
        lacking = [
            f"{field}: {_quoted(name)}{_near(name, present)}"
            for field, name in self.fields.items()
            if name not in present
        ]
        if lacking:
            some = ", ".join(map(_quoted, present[:_SHOWN]))
            more = f" and {len(present) - _SHOWN} more" if len(present) > _SHOWN else ""
            raise DataError(f"{where}: no column for {'; '.join(lacking)}; it has {some}{more}", advice or self.hint)
        twice = sorted(name for name in {*self.names, *self.other} if list(present).count(name) > 1)
        if twice:
            raise DataError(
                f"{where}: {present.count(twice[0])} columns are named {_quoted(twice[0])}",
                "rename all but the one to read",
            )


def _shown(name: str) -> str:
    """A name without invisible characters, with one form of each letter and single spaces."""
    shown = "".join(one for one in unicodedata.normalize("NFKC", name) if unicodedata.category(one) != "Cf")
    return " ".join(shown.split())


def _quoted(name: str) -> str:
    shown = excerpt(name)
    return repr(shown if len(shown) <= 40 else f"{shown[:37]}...")


def _near(name: str, present: Sequence[str]) -> str:
    outer = name.split(".")[0]
    if outer in present and outer != name:
        return f" (a path into {_quoted(outer)} is not read: write its value to a column)"
    if (same := next((one for one in present if _shown(one) == _shown(name)), None)) is not None:
        return f" (it has {same!a}, which only looks like {name!a})"
    close = difflib.get_close_matches(name, present, n=1)
    return f" (did you mean {_quoted(close[0])}?)" if close else ""
