"""What every recipe section is, and the kinds of numbers in them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Section(BaseModel):
    """Base of every recipe section: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _ratio(value: Any) -> Any:
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
