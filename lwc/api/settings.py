"""Settings given in Python, checked as a recipe's are, and where progress goes by default."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from lwc.core.errors import RecipeError
from lwc.core.progress import Say
from lwc.recipe.base import Section

S = TypeVar("S", bound=Section)
logger = logging.getLogger("lwc")


def checked(section: type[S], values: Mapping[str, Any], what: str) -> S:
    """A section of a recipe with these values; ``what`` is what an error calls them.

    Raises:
        RecipeError: a key does not exist, or a value is out of range.
    """
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, one['loc'])) or what}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        known = ", ".join(section.model_fields)
        raise RecipeError(f"{what}: {'; '.join(problems)}", f"the keys are {known}") from error


def told(progress: Say | None) -> Say:
    """``progress``, or by default the logger ``lwc`` at level INFO."""
    return progress if progress is not None else lambda text: logger.info("%s", text)
