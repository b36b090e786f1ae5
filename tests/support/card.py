"""What the model card of a published folder says to do, done as a reader would. Not a test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_ALONE = "\nimport sys\nassert not any(name.split('.')[0] == 'lwc' for name in sys.modules)\n"


def run_card(folder: Path, more: str = "") -> str:
    """Run the card's code, then ``more``, in the folder and in a process without lwc; returns what they printed."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code + more + _ALONE], cwd=folder, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
