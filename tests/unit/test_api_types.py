"""What a user's type checker says of the Python API."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import lwc

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "support" / "every_public_function.py"


def test_the_script_uses_every_public_name() -> None:
    assert set(re.findall(r"\blwc\.(\w+)", SCRIPT.read_text())) == set(lwc.__all__)


def test_mypy_finds_nothing_in_it_and_a_wrong_call_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import lwc\nlwc.remove_blocks('model', ['2'])\nlwc.scores\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", SCRIPT, wrong], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(found) == 2, done.stdout + done.stderr
    assert all("wrong.py:" in line for line in found), done.stdout
