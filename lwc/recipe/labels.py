"""How labels become classes."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lwc.core.spelling import likeness, number_name, plain
from lwc.recipe.base import Section

STAR_NAMES = {
    "binary": ("negative", "positive"),
    "three_class": ("negative", "neutral", "positive"),
    "five_class": ("1", "2", "3", "4", "5"),
}
NO_LABEL = "none"


def _label(value: object) -> object:
    """Accept a number as a label, by its one name; true and false have several spellings."""
    if isinstance(value, bool):
        raise ValueError(f'a label is text: write it in quotes, as the data spell it ("{str(value).lower()}")')
    if isinstance(value, int | float):
        return number_name(value)
    return plain(value) if isinstance(value, str) else value


LabelName = Annotated[str, BeforeValidator(_label), Field(min_length=1)]


class Labels(Section):
    """How labels are made: star schemes (binary: >=4 vs <=2, the others dropped), a label column, or none."""

    scheme: Literal["binary", "three_class", "five_class", "column", "none"] = Field(
        default="binary",
        description="binary: 4 and 5 stars against 1 and 2; three_class; five_class; column: a label column; none:"
        " no labels",
    )
    names: tuple[LabelName, ...] | None = Field(
        default=None,
        description="the classes in the order of their ids, by default that of the checkpoint's head; it also names the"
        " outputs of a head that has no names (LABEL_0, LABEL_1, ...)",
    )
    map: dict[LabelName, LabelName] = Field(
        default={},
        description="class names by value of the label column or by class of the stars, and by name of an output of the"
        " checkpoint's head; other names stay",
    )

    @field_validator("map", mode="before")
    @classmethod
    def _one_name_a_value(cls, value: Any) -> Any:
        keys = [str(_label(key)) for key in value] if isinstance(value, dict) else []
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} is given twice: a whole number with and without decimals is one value")
        return value

    @model_validator(mode="after")
    def _of_classes(self) -> Labels:
        names = self.names or ()
        if self.scheme == "none" and (self.names is not None or self.map):
            given = "names" if self.names is not None else "map"
            raise ValueError(f"{given} is for labels, and scheme is none: leave it out")
        if len(set(names)) < len(names):
            raise ValueError(f"names lists {next(one for one in names if names.count(one) > 1)!r} twice")
        for name in (*names, *self.map.values()):
            if "\n" in name or "\r" in name:
                raise ValueError(f"{name!r} contains a line break: the served labels are lines of a file")
        stars = self._of_stars()
        if stars and names and sorted(map(likeness, names)) != sorted(map(likeness, stars)):
            raise ValueError(f"the classes of scheme {self.scheme} are {', '.join(stars)}: names must list each once")
        classes = {likeness(name) for name in names or stars}
        strange = sorted(name for name in self.map.values() if likeness(name) not in classes) if classes else []
        if strange:
            listed = "names does not list" if names else f"is no class of scheme {self.scheme}: {', '.join(stars)}"
            raise ValueError(f"map leads to {strange[0]!r}, which {listed}")
        return self

    def _of_stars(self) -> tuple[str, ...]:
        """The classes that the scheme makes of stars, as the map calls them; none of another scheme."""
        return tuple(dict.fromkeys(self.map.get(name, name) for name in STAR_NAMES.get(self.scheme, ())))

    def name(self, value: str) -> str:
        """The class of a value of the label column, or of a class of stars; `names` are matched without case."""
        value = plain(value)
        value = self.map.get(value, value)
        if self.names is None or value in self.names:
            return value
        alike = [name for name in self.names if likeness(name) == likeness(value)]
        return alike[0] if len(alike) == 1 else value

    def known(self) -> tuple[str, ...] | None:
        """The class names; None if only the data know them."""
        if self.names is not None or self.scheme == "column":
            return self.names
        return self._of_stars() or (NO_LABEL,)
