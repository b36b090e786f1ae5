"""The pages of the documentation and their fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"\w+=")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language and text."""

    page: Path
    language: str
    text: str

    @property
    def id(self) -> str:
        """For pytest: the page and the first words."""
        words = re.sub(r"\W+", "-", self.text.strip())[:40].strip("-")
        return f"{self.page.relative_to(ROOT)}:{words}"


def blocks(language: str) -> list[Block]:
    """All blocks of a language, page by page."""
    return [
        Block(page, found[2], dedent(found[3]))
        for page in PAGES
        for found in _FENCE.finditer(page.read_text(encoding="utf-8"))
        if found[2] == language
    ]


def inline(page: Path) -> Iterator[str]:
    """Code spans of a page that begin with ``lwc``, fenced blocks left out."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in re.finditer(r"`(lwc [^`]+)`", text):
        yield re.sub(r"\s+", " ", found[1])


def lwc_commands(text: str) -> Iterator[list[str]]:
    """Arguments of each lwc command of a shell block, however it is started: lwc, -m lwc, after VARIABLE=value."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||;|\|", line.partition(" # ")[0]):
            words = shlex.split(part)
            while words and _ASSIGNMENT.match(words[0]):
                words = words[1:]
            if "-m" in words and words[words.index("-m") + 1] == "lwc":
                yield words[words.index("-m") + 2 :]
            elif words and Path(words[0]).name == "lwc":
                yield words[1:]
