"""mkdocs hook: pages that are made from the code, so that they cannot differ from it.

``reference/recipe.md`` comes from the JSON Schema of the recipe and ``reference/cli.md`` from the Typer application.
``notebooks/notebook.md`` is notebooks/notebook.ipynb with its outputs. The navigation lists the decisions by their
titles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RECIPE = "reference/recipe.md"
CLI = "reference/cli.md"
NOTEBOOK = "notebooks/notebook.md"
_RECIPE_TEXT = """\
# Recipe keys

A recipe is one YAML file. Keys without a default are required. `lwc schema` prints the same as JSON Schema, for
editors, and `lwc validate` reports unknown keys with the nearest valid name.
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decisions by their titles."""
    folder = Path(config.docs_dir) / "decisions"
    pages = [{_title(path): f"decisions/{path.name}"} for path in sorted(folder.glob("*.md"))]
    config.nav = [{"Decisions": pages} if entry == {"Decisions": []} else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    notebook = Path(config.docs_dir) / "notebooks" / "notebook.ipynb"
    pages = ((RECIPE, recipe_page()), (CLI, cli_page()), (NOTEBOOK, notebook_page(notebook)))
    for path, text in pages:
        files.append(File.generated(config, path, content=text))
    return files


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").replace("`", "")


def recipe_page() -> str:
    """Every key of a recipe: type, default and meaning, section by section."""
    from lwc.recipe import Recipe

    schema = Recipe.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    lines = [_RECIPE_TEXT, *_table(schema, definitions)]
    done: set[str] = set()
    for key, value in schema["properties"].items():
        names = [name for name in _reached(value, definitions) if name not in done]
        if names:
            lines += ["", f"## {key}"]
        for name in names:
            done.add(name)
            section = definitions[name]
            lines += [
                "",
                f"### {_called(name, section)} {{ #{name} }}",
                "",
                section.get("description", ""),
                "",
                *_table(section, definitions),
            ]
    return "\n".join(lines) + "\n"


def _called(name: str, section: dict[str, Any]) -> str:
    """A section's name, and for a row of a table the tag that chooses it: ``TableFile (kind: table)``."""
    tags = [f"{key}: {value['const']}" for key, value in section.get("properties", {}).items() if "const" in value]
    return f"{name} (`{tags[0]}`)" if tags else name


def _reached(value: Any, definitions: dict[str, Any], seen: set[str] | None = None) -> list[str]:
    """Names of the object definitions that a schema refers to, directly or not, in order."""
    seen = set() if seen is None else seen
    found: list[str] = []
    for name in re.findall(r"#/\$defs/([\w.-]+)", json.dumps(value)):
        if name not in seen:
            seen.add(name)
            found += [name] if "properties" in definitions[name] else []
            found += _reached(definitions[name], definitions, seen)
    return found


def _table(section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    yield "| key | type | default | |"
    yield "|---|---|---|---|"
    required = section.get("required", ())
    for key, value in section.get("properties", {}).items():
        default = "required" if key in required else f"`{json.dumps(value.get('default'))}`"
        if "$ref" in value or isinstance(value.get("default"), dict | list):
            default = "" if value.get("default") else default
        yield f"| `{key}` | {_type(value, definitions)} | {default} | {_cell(value.get('description', ''))} |"


def _type(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type in words; one that has a section links to it."""
    if "$ref" in value:
        name = str(value["$ref"].rpartition("/")[2])
        known = definitions[name]
        return f"[{name}](#{name})" if "properties" in known else _type(known, definitions)
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    for many in ("anyOf", "oneOf"):
        if many in value:
            return " or ".join(dict.fromkeys(_type(one, definitions) for one in value[many]))
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}), definitions)}"
    limits = [
        f"{sign} {value[key]:.12g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if isinstance(value.get(key), int | float)
    ]
    return " ".join([str(value.get("type", "any")), *limits])


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def cli_page() -> str:
    """Every command with its arguments and options, as Typer documents them."""
    import typer
    from typer.cli import get_docs_for_click

    from lwc.cli.main import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="lwc")
    text: str = get_docs_for_click(obj=command, ctx=context, name="lwc", title="Command line")
    return text


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: text, code, and what each cell printed and showed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(one) for one in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n\n[Download the notebook](notebook.ipynb)\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="{_cell(data["text/plain"])}" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        # Without these attributes, the theme styles it as a table of its own.
        return str(data["text/html"]).replace(' border="1" class="dataframe"', "").replace("\n", "")
    return f"```text\n{(data.get('text/plain') or output['text']).rstrip()}\n```"
