"""Run notebook.py and write notebook.ipynb with the outputs: ``python docs/notebooks/run_notebook.py``.

It takes about ten minutes on two cores. notebook.py is in the percent format, which editors open as a notebook. The
site shows notebook.ipynb (docs/reference/generate.py).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE, NOTEBOOK = HERE / "notebook.py", HERE / "notebook.ipynb"
_CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def cells(text: str) -> list[tuple[str, str, str]]:
    """(kind, name, source) of each cell: kind is ``markdown`` or ``code``."""
    parts = _CELL.split(text)[1:]
    found = []
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        source = body.strip("\n")
        if "[markdown]" in head:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        found.append(("markdown" if "[markdown]" in head else "code", head.strip(), source))
    return found


def execute(source: str, space: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell; what it prints and the value of its last expression, as a notebook keeps them."""
    tree, last = ast.parse(source), None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "notebook", "exec"), space)
        value = eval(compile(last, "notebook", "eval"), space) if last is not None else None
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    if value is not None:
        outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": shown(value)})
    return outputs


def shown(value: object) -> dict[str, str]:
    """A value by media type."""
    data = {"text/plain": repr(value)}
    for media, method in (("text/html", "_repr_html_"), ("image/png", "_repr_png_")):
        made = getattr(value, method, lambda: None)()
        if isinstance(made, bytes):
            data[media] = base64.b64encode(made).decode()
        elif made is not None:
            data[media] = re.sub(r"<style scoped>.*?</style>\n?", "", str(made), flags=re.DOTALL)
    return data


def main() -> None:
    """Run every cell in one namespace, in a temporary folder."""
    space: dict[str, Any] = {"__name__": "notebook"}
    made: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, (kind, _, source) in enumerate(cells(SOURCE.read_text(encoding="utf-8"))):
            cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
            if kind == "code":
                print(f"cell {number}: {source.splitlines()[0]}", file=sys.stderr)
                outputs = execute(source, space)
                cell |= {"execution_count": number, "outputs": outputs}
                for one in outputs:
                    if "execution_count" in one:
                        one["execution_count"] = number
            made.append(cell)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    NOTEBOOK.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main()
