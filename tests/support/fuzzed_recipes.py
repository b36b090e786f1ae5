"""Damaged recipes, options of the command line, and folders of finished runs. Not a test."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import mutate
import yaml
from fuzzed_sound import SMALL, Commands, Sound


def recipes(source: random.Random, place: Path, sound: Sound) -> Commands:
    """Recipes damaged as text and as trees, options of the command line, and folders of finished runs."""
    text = source.choice(sound.recipes).read_text(encoding="utf-8")
    kind, path = (
        source.random(),
        place / source.choice(("r.yaml",) * 6 + ("\x1b[31mr.yaml", "[bold]r.yaml", "\udcffr.yaml")),
    )
    options = [f"--set={_override(source, text)}" for _ in range(source.choice((0, 0, 0, 1, 2)))]
    if kind < 0.12:
        return _runs(source, place, sound)
    if kind < 0.5:
        return _small(source, path, sound)
    if kind < 0.65:
        path.write_bytes(mutate.raw(source, text.encode(), 3))
    elif kind < 0.75:
        path.write_bytes(
            mutate.raw(source, _odd_yaml(source, text).encode(), 1) if kind < 0.7 else _odd_yaml(source, text).encode()
        )
    else:
        change = source.choice((mutate.tree, mutate.similar))
        path.write_text(_dumped(source, change(source, yaml.safe_load(text))), encoding="utf-8")
    other = ("plan", "report") if _offline(path) else ("validate", "schema")
    more = source.choice((other[0], other[1], "run", "compare"))
    return [
        ["validate", path.name, *options],
        ["run", path.name, "--until", source.choice(("dta", "", "[/]", "\x1b[31m"))] if more == "run"
        else [more, *([] if more == "schema" else [path.name]), *(options if more in other[:1] else [])],
    ]  # fmt: skip


_WHOLE = {
    **SMALL, "description": "small", "task": {"kind": "classification"},
    "train": {"epochs": 0.5, "batch_size": 8, "learning_rate": 1e-3, "warmup": 0.1, "patience": 3, "precision": "fp32"},
    "recover": {"epochs": 0.5, "batch_size": 8, "temperature": 2.0, "hidden_weight": 1.0, "augment": 0.0,
    "average": 0.0},
    "score": {"methods": [{"method": "block_influence"}, {"method": "fisher", "weight": 1.0}], "batch_size": 8},
    "select": {"strategy": "fused", "keep_first": 0, "keep_last": 0}, "vocabulary": {"trim": False, "min_count": 1},
    "evaluate": {"bootstrap": 100, "batch_size": 8}, "sweep": {"ratios": [2.0]},
    "gates": [{"metric": "ratios.blocks", "op": ">=", "value": 1.5}],
}  # fmt: skip


def _small(source: random.Random, path: Path, sound: Sound) -> Commands:
    """A recipe that runs in seconds, with values that its schema takes and its stages may not."""
    (path.parent / "rows.csv").write_bytes((sound.data / "rows.csv").read_bytes())
    changed = (mutate.similar if source.random() < 0.8 else mutate.tree)(source, {**_WHOLE})
    path.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    given = changed.get("data") if isinstance(changed, dict) else None
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("source"), dict)
        or given["source"].get("kind") != "table"
    ):
        return [["validate", path.name]]  # no case fetches the data of another source
    if source.random() < 0.7:
        return [["validate", path.name, "--deep", "--until", "export"]]
    return [["data", "inspect", path.name], ["run", path.name, "--until", "data"], ["plan", path.name], ["report",
    path.name],
            ["data", "ingest", path.name, "--workers", "1"]]  # fmt: skip


def _offline(path: Path) -> bool:
    """Whether a recipe's data are not fetched: no case waits for a network."""
    return b"amazon" not in (text := path.read_bytes()) and b"hub" not in text


def _dumped(source: random.Random, tree: Any) -> str:
    if source.random() < 0.3:
        return json.dumps(tree, default=str)
    return yaml.safe_dump(
        tree, sort_keys=False, allow_unicode=source.random() < 0.5, default_flow_style=source.choice((None, True))
    )


def _odd_yaml(source: random.Random, text: str) -> str:
    """YAML that is more than a tree of plain values."""
    return source.choice((
        "a: &a [*a]\n", "&a {b: *a}\n", "- 1\n- 2\n", "12", '"x"', LAUGHS, "", "---\na: 1\n---\nb: 2\n",
        "? [a, b]\n: c\n" + text,
        "!!python/object/apply:os.system [echo]\n", text.replace("seed:", "seed: !!set"), text.replace("name:",
        "<<: *x\nname:"),
        "x: " + "[" * 3000, "{" * 500, text + text, text.replace("seed: 17", "seed: 2001-13-45"), "a: !!int x\n" + text,
        text.replace("seed: 17", "seed: " + "9" * 5000), text.replace("name:", "? !!binary |\n  aGk=\n: x\nname:"),
        "x: &l [1,1]\ny: &m [*l,*l]\nz: [*m,*m]\n" + text, text.replace("data:", "data: &d\n  <<: *d"),
        "%YAML 9.9\n---\n" + text,
    ))  # fmt: skip


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n" for last, this in zip("abcdefgh", "bcdefghi", strict=True)
)


def _override(source: random.Random, text: str) -> str:
    tree = yaml.safe_load(text)
    path = ".".join(map(str, source.choice(list(mutate.places(tree)))))
    value = mutate.odd(source)
    shown = value if isinstance(value, str) else json.dumps(value)
    path = source.choice(
        (path, path, path + ".x", path[:-1], "", ".", "a..b", "gates.0", "gates.99.metric", "gates.-1", "[/]", "x=y")
    )
    return source.choice((f"{path}={shown}", f"{path}={shown}", f"{path}={shown}", path)).replace("\0", "")


def _runs(source: random.Random, place: Path, sound: Sound) -> Commands:
    """Finished runs as they are after a crash, a bad copy or an editor."""
    runs = shutil.copytree(sound.runs, place / "runs")
    names = sorted(path.parent.name for path in runs.glob("*/report.json"))
    if source.random() < 0.6:
        path = runs / source.choice(names) / source.choice(("report.json", "report.json", "stages.json"))
        path.write_text(json.dumps(mutate.tree(source, json.loads(path.read_text()))), encoding="utf-8")
    else:
        mutate.folder(source, runs)
    out = [["--out", "compared"], ["--json"], []]
    return [["compare", *(f"runs/{name}" for name in names), *source.choice(out)], ["compare", f"runs/{names[-1]}"]]
