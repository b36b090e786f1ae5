"""What README and documentation tell people to write and to run is what lwc reads and has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import torch
import typer
import yaml
from pages import PAGES, ROOT, Block, blocks, inline, lwc_commands
from run_notebook import cells, execute
from tiny_texts import LABELS, TEXTS, classifier

import lwc
from lwc.cli.main import app
from lwc.recipe.file import parse_recipe
from lwc.recipe.variants import unfit_variants
from lwc.report.gate_names import CHECKS

GENERATED = [ROOT / "docs" / "reference" / name for name in ("recipe.md", "cli.md")]
NOTEBOOKS = ROOT / "docs" / "notebooks"
GENERATED.append(NOTEBOOKS / "notebook.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = typer.main.get_command(app)


def kind_of(block: Block) -> str:
    first = yaml.safe_load(block.text)
    return next(iter(first)) if isinstance(first, dict) else ""


YAML = blocks("yaml")
RECIPES = [block for block in YAML if kind_of(block) == "schema_version"]
MANIFESTS = [block for block in YAML if kind_of(block) == "apiVersion"]
VALUES = [block for block in YAML if block.page.name == "kubernetes.md" and kind_of(block) == "model"]


def named(found: list[Block]) -> dict[str, Any]:
    return {"argvalues": found, "ids": [block.id for block in found]}


@pytest.mark.parametrize("block", **named(RECIPES))
def test_recipes_are_valid_with_their_gates(block: Block) -> None:
    parse_recipe(block.text, block.id, (), [*CHECKS, unfit_variants])


def test_every_tutorial_has_a_recipe_or_a_manifest() -> None:
    pages = {block.page for block in (*RECIPES, *MANIFESTS)}
    assert {page for page in PAGES if page.parent.name == "tutorials" and page.suffix == ".md"} <= pages


@pytest.mark.parametrize("block", **named(MANIFESTS))
def test_manifests_fit_kubernetes(block: Block) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    validate.validate(yaml.safe_load(block.text), "1.29", strict=True)


@pytest.mark.parametrize("block", **named(VALUES))
def test_values_are_values_of_the_chart(block: Block) -> None:
    chart = ROOT / "deploy" / "helm" / "lwc"
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    for key, value in yaml.safe_load(block.text).items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    jsonschema.validate(values, json.loads((chart / "values.schema.json").read_text(encoding="utf-8")))


def parse(arguments: list[str]) -> None:
    """Parse a command line as `lwc` would, without running it: commands, options, types, required arguments."""
    command, context, words = COMMAND, None, arguments
    while True:
        commands = getattr(command, "commands", None)
        if commands is None:
            command.make_context(words[0] if words else "lwc", words, parent=context)
            return
        context = type(command).context_class(command, info_name="lwc", parent=context)
        assert words, f"lwc {' '.join(arguments)}: a command is missing"
        assert words[0] in commands, f"lwc {' '.join(arguments)}: no command {words[0]}"
        command, words = commands[words[0]], words[1:]


@pytest.mark.parametrize("block", **named([block for block in blocks("bash") if "lwc" in block.text]))
def test_commands_parse(block: Block) -> None:
    for arguments in lwc_commands(block.text):
        if arguments[:1] not in (["--install-completion"], ["--show-completion"]):
            parse(arguments)


def test_a_wrong_command_would_be_found() -> None:
    assert list(lwc_commands("A=1 .venv/bin/lwc run x \\\n --until y && torchrun -m lwc plan z")) == [
        ["run", "x", "--until", "y"],
        ["plan", "z"],
    ]
    parse(["run", "x.yaml", "--until", "score"])
    for wrong, said in (
        (["walk"], "no command walk"),
        (["run", "x.yaml", "--untill", "y"], "untill"),
        (["loadtest", "x", "--users", "few"], "valid integer"),
        (["rollback"], "directory"),
    ):
        with pytest.raises(Exception, match=said):
            parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_sentences_exist_with_their_options(page: Path) -> None:
    for span in inline(page):
        words = span.split()[1:]
        command = COMMAND
        while words and words[0] in getattr(command, "commands", {}):
            command, words = command.commands[words[0]], words[1:]
        assert command is not COMMAND or words[0].startswith("-"), f"{span}: no command"
        options = {name for one in command.params for name in one.opts}
        options |= {"--help", "--install-completion", "--show-completion"}
        asked = {re.split(r"[=.,…]", word)[0] for word in words if word.startswith("--")}
        assert asked <= options, f"{span}: {asked - options}"


def test_the_page_of_commands_lists_all_of_them() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`lwc ([a-z]+(?: [a-z]+)?)", "\n".join(re.findall(r"^\| `lwc .*", page, re.MULTILINE))))
    every = set()
    for name, command in COMMAND.commands.items():
        every |= {f"{name} {one}" for one in getattr(command, "commands", {})} or {name}
    assert every <= listed, every - listed


def test_completion_knows_the_commands() -> None:
    environment = {**os.environ, "_LWC_COMPLETE": "complete_bash", "COMP_WORDS": "lwc rollb", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'lwc'; from lwc.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["rollback"], done.stderr


# --- README ---------------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_begins_with_the_main_job() -> None:
    assert len(README.splitlines()) <= 120
    first = next(block.text for block in blocks("bash") if block.page == ROOT / "README.md")
    *_, install, run = first.strip().splitlines()
    assert install == "pip install -e '.[serve,sample]'"
    assert run == "lwc run recipes/amazon_2.5x.yaml"


def test_ci_runs_the_readmes_test_command() -> None:
    assert "`python -m pytest`" in README
    assert "python -m pytest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_quickstart_and_the_readme_say_the_same() -> None:
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for block in blocks("python"):
        if block.page == ROOT / "README.md":
            assert block.text in page
    rows = re.findall(r"^\| (?:blocks|parameters|file|latency|the same).*$", README, re.MULTILINE)
    assert len(rows) == 5
    assert all(row in page for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        assert path in GENERATED or path.exists(), target


# --- Python and the site --------------------------------------------------------------------------------------------


@pytest.mark.serving
def test_the_ten_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (block for block in blocks("python") if block.page == ROOT / "README.md")
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    model, tokenizer = classifier(blocks=6)
    given = {"model": model, "tokenizer": tokenizer, "texts": TEXTS, "labels": LABELS, "more_texts": TEXTS}
    exec(compile(block.text, "README.md", "exec"), given)
    assert "Answer(label=" in capsys.readouterr().out


def test_the_notebook_is_its_source_run_whole() -> None:
    made = json.loads((NOTEBOOKS / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    source = cells((NOTEBOOKS / "notebook.py").read_text(encoding="utf-8"))
    assert [(cell["cell_type"], cell["source"]) for cell in made] == [(kind, text) for kind, _, text in source], (
        "run docs/notebooks/run_notebook.py again"
    )
    outputs = [one for cell in made for one in cell.get("outputs", ())]
    assert any("image/png" in one.get("data", {}) for one in outputs)
    assert not [one for one in outputs if one["output_type"] == "error"]


@pytest.mark.serving
def test_the_notebook_runs_on_a_model_and_data_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells but the two that it tells people to replace."""
    monkeypatch.chdir(tmp_path)
    model, tokenizer = classifier(blocks=6)
    own = pd.DataFrame({"text": TEXTS, "label": LABELS})
    parts = {"train": own, "calibration": own, "test": own, "names": model.config.id2label}
    space = {"pd": pd, "torch": torch, "model": model, "tokenizer": tokenizer, **parts}
    code = [(name, text) for kind, name, text in cells((NOTEBOOKS / "notebook.py").read_text()) if kind == "code"]
    assert [name for name, _ in code if name] == ["data", "model"]
    outputs = [one for name, text in code if not name for one in execute(text, space)]
    assert "Answer(label=" in outputs[-1]["text"]


def test_the_python_page_shows_every_public_name() -> None:
    assert "::: lwc" in (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert {"score", "remove_blocks", "recover", "export_onnx", "package", "serve", "run"} <= set(lwc.__all__)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'lwc[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    python = (tmp_path / "site" / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    missing = [name for name in lwc.__all__ if not name.startswith("_") and f'id="lwc.{name}"' not in python]
    assert missing == []
    recipe = (tmp_path / "site" / "reference" / "recipe" / "index.html").read_text(encoding="utf-8")
    targets = set(re.findall(r'href="#([A-Z]\w+)"', recipe))
    assert targets
    assert all(f'id="{target}"' in recipe for target in targets)


def test_every_key_of_a_recipe_is_described() -> None:
    """The reference is made from these descriptions; a tag such as ``kind: table`` says it all."""
    # In a process of its own: other tests add rows of theirs to the tables.
    done = subprocess.run([sys.executable, "-m", "lwc", "schema"], capture_output=True, text=True, check=True)
    schema = json.loads(done.stdout)
    sections = {"recipe": schema, **schema["$defs"]}
    silent = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, value in section.get("properties", {}).items()
        if "description" not in value and "const" not in value
    ]
    assert silent == []
