"""``lwc data inspect``: the quality report without keeping anything."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.data.prepare import prepare
from lwc.recipe import Data


def inspect(data: Data, seed: int, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Quality report of a recipe's data."""
    with tempfile.TemporaryDirectory(prefix="lwc-inspect-") as folder:
        return prepare(data, seed, Path(folder), progress)
