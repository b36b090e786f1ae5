"""Quality of a model on test rows, and what of the base's it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NotRequired, TypeAlias, cast

from pydantic import ConfigDict, Field, with_config
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from lwc.core.marks import Interval, Intervals, Keyed, Most, When

_INTERVAL: JsonDict = {"type": "object", "required": ["value", "low", "high"]}


@with_config(ConfigDict(extra="allow", json_schema_extra={"additionalProperties": _INTERVAL}))
class Quality(TypedDict):
    """Metrics of the task on its n test rows, each an interval; read them with `measured`."""

    n: Annotated[int, Field(ge=1)]
    tokens: NotRequired[Annotated[int, When("tokens")]]
    confusion: NotRequired[
        Annotated[
            list[Annotated[list[int], Keyed("classes")]],
            Keyed("classes"),
            When("confusion"),
            Field(description="rows: true class, columns: predicted class"),
        ]
    ]


Measured: TypeAlias = Annotated[Quality, Keyed("metrics", Interval)]


def measured(quality: Quality, metric: str) -> Interval:
    """One metric of a model's quality."""
    return cast(Mapping[str, Interval], quality)[metric]


Retention: TypeAlias = Annotated[
    Intervals,
    Keyed("retained"),
    Most(10.0),
    Field(
        description="how much of the base is left on the same test rows, 1 = all, paired resamples: compressed / base,"
        " or base / compressed where lower is better"
    ),
]
