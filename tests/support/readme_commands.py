"""The requests in a repository's README, sent as they are written there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any


def answers(repository: Path, address: str) -> list[dict[str, Any]]:
    """What ``generate`` and ``infer`` answer, in this order, where the server is at ``address``."""
    commands = re.findall(r"^curl .*$", (repository / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert ["/generate" in commands[0], "/infer" in commands[1], len(commands)] == [True, True, 2]
    return [ask(command.replace("127.0.0.1:8000", address)) for command in commands]


def ask(command: str) -> dict[str, Any]:
    """The JSON that a command prints."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
