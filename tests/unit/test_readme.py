"""The README's commands are the ones that exist and that CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lwc.cli.main import app
from lwc.recipe.file import parse_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def test_first_command_sets_up_and_runs_the_main_job() -> None:
    assert "pip install -e '.[serve,sample,dev]'" in BLOCKS[0]
    assert "lwc run recipes/amazon_2.5x.yaml" in BLOCKS[0]
    assert len(BLOCKS[0].strip().splitlines()) == 1


def test_ci_runs_the_readmes_test_command() -> None:
    command = BLOCKS[1].strip()
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"^\| `lwc ([a-z ]+?)(?: [A-Z…]+)*` \|", README, re.MULTILINE)))
)
def test_every_command_in_the_table_exists(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0, done.output


def test_the_table_names_every_command() -> None:
    listed = set(re.findall(r"^\| `lwc ([a-z]+)", README, re.MULTILINE))
    assert listed == {*(c.name or c.callback.__name__ for c in app.registered_commands if c.callback), "data", "repo"}


def test_the_recipe_in_the_readme_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert parse_recipe(text, "README").target.ratio == 2.5


PAGES = [ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
