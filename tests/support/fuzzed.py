"""The five kinds of input of a user, sound ones damaged in ways drawn from a seed, and the commands that read them.

Not a test. Each function of `KINDS` writes its input into an empty folder, which is the working directory of the
commands that it returns.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mutate
from fuzzed_recipes import recipes
from fuzzed_sound import SMALL, Commands, Sound
from fuzzed_tables import ROWS, write_table
from safetensors.numpy import load_file, save_file

_TASKS: tuple[dict[str, Any], ...] = (
    {"task": {"kind": "next_item"}, "model": {**SMALL["model"], "max_length": 8},
    "score": {"methods": [{"method": "fisher"}]}},
    {"task": {"kind": "regression"}, "model": {"kind": "pretrained", "source": "x"}},
    {"task": {"kind": "causal_lm"}, "model": {"kind": "pretrained", "source": "x"}},
)  # fmt: skip
del _TASKS[0]["model"]["vocab_size"]


def tables(source: random.Random, place: Path, sound: Sound) -> Commands:
    """Files of rows, read by the small reader and by the streaming ingestion."""
    path, columns = write_table(source, place)
    labels: dict[str, Any] = {"scheme": source.choice(("column", "column", "binary", "five_class"))}
    columns = {
        field: name
        for field, name in columns.items()
        if field != "title"
        and (field, labels["scheme"])
        not in (
            ("rating", "column"),
            ("rating", "none"),
            ("label", "none"),
            ("label", "binary"),
            ("label", "five_class"),
        )
    }
    recipe: dict[str, Any] = {**SMALL, "data": {
        "source": {"kind": "table", "paths": [path.name], "columns": columns}, "labels": labels, "calibration": 16,
        "max_bad_rows": source.choice((0.05, 1.0, 1.0)), "split": {"by": source.choice(("auto", "user", "time",
        "random"))},
    }}  # fmt: skip
    if source.random() < 0.2:
        recipe["data"]["ingest"] = {"shard_mib": 1}
    if source.random() < 0.2:
        encoding = source.choice(
            ("cp1252", "utf-16", "hex", "idna", "utf-7", "rot13", "utf-8-sig", "punycode", "unicode_escape")
        )
        recipe["data"]["source"]["format"] = mutate.tree(
            source, {"encoding": encoding, "delimiter": ",", "header": True}, 1
        )
    if source.random() < 0.15:
        recipe |= source.choice(_TASKS)
        recipe["data"]["labels"] = {"scheme": "column" if recipe["task"]["kind"] == "regression" else "none"}
        recipe["data"]["source"]["columns"] |= {"user": "user", "item": "item", "time": "time"}
    (place / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    ingest = ["data", "ingest", "r.yaml", "--out", "ingested", "--workers", "1"]
    return [["data", "inspect", "r.yaml"], ingest, *([ingest] if source.random() < 0.2 else [])]


def checkpoints(source: random.Random, place: Path, sound: Sound) -> Commands:
    """Folders of saved models: fields of the config and the tokenizer, the weights' header and content, whole files."""
    task = source.choice(list(sound.checkpoints))
    folder = shutil.copytree(sound.checkpoints[task], place / "model")
    for _ in range(source.choice((1, 1, 2))):
        kind = source.random()
        if kind < 0.5:
            path = source.choice(sorted(folder.glob("*.json")) or [folder / "config.json"])
            if path.is_file():
                _json(source, path)
        elif kind < 0.7 and (folder / "model.safetensors").is_file():
            (_header if source.random() < 0.6 else _tensors)(source, folder / "model.safetensors")
        else:
            mutate.folder(source, folder)
    pretrained = {"kind": "pretrained", "source": "model", "max_length": 16}
    recipe = {**SMALL, "model": pretrained}
    recipe["data"] = {**SMALL["data"], "source": {**SMALL["data"]["source"], "paths": [str(sound.data / "rows.csv")]}}
    if task == "causal_lm":
        recipe = {**recipe, "task": {"kind": task}, "data": {**recipe["data"], "labels": {"scheme": "none"}}}
    (place / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    runs = ["--runs", str(sound.data / "runs")]
    deep = ["validate", "r.yaml", "--deep", "--until", "export", *runs]
    return [deep, ["run", "r.yaml", "--until", "select", "--runs", "runs"]] if source.random() < 0.1 else [deep]


def _json(source: random.Random, path: Path) -> None:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return
    changed = source.choice((mutate.tree, mutate.similar))(source, content)
    path.write_text(json.dumps(changed, ensure_ascii=source.random() < 0.5), encoding="utf-8", errors="surrogatepass")


def _header(source: random.Random, path: Path) -> None:
    """The description of the tensors, in front of them."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
    except ValueError:
        return
    changed = json.dumps(mutate.tree(source, header)).encode()
    given = len(changed) if source.random() < 0.9 else source.choice((0, 1, len(changed) + 1, 2**40, 2**63, 2**64 - 1))
    path.write_bytes(given.to_bytes(8, "little") + changed + content[8 + length :])


def _tensors(source: random.Random, path: Path) -> None:
    """A tensor of another name, type, shape or content, or none."""
    try:
        found = load_file(path)
    except Exception:  # damaged already
        return
    name = source.choice(sorted(found))
    value = found.pop(name)
    kind = source.randrange(7)
    if kind == 0:
        found[source.choice((f"model.{name}", name.upper(), "\x1b[31m", name + ".1"))] = value
    elif kind == 1:
        found[name] = value.astype(source.choice(("float16", "float64", "int8", "int64", "bool")))
    elif kind == 2:
        found[name] = value[: len(value) // 2].copy()
    elif kind == 3:
        found[name] = value * source.choice((float("nan"), float("inf"), 0.0, 1e38))
    elif kind == 4:
        found[name] = value.reshape(-1)
    elif kind == 5:
        found = {}
    save_file(found, path, source.choice(({"format": "pt"}, None, {"format": "tf"})))


def repositories(source: random.Random, place: Path, sound: Sound) -> Commands:
    """A Triton repository: words and numbers of its configurations, its files, its graphs."""
    folder = shutil.copytree(source.choice(sound.repositories), place / "repository")
    for _ in range(source.choice((1, 1, 2, 3))):
        configs = sorted(path for path in folder.rglob("config.pbtxt") if path.is_file())
        graphs = sorted(path for path in folder.rglob("*.onnx") if path.is_file())
        kind = source.random()
        if kind < 0.5 and configs:
            path = source.choice(configs)
            path.write_bytes(
                _words(source, path.read_bytes().decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
            )
        elif kind < 0.65 and graphs:
            path = source.choice(graphs)
            path.write_bytes(mutate.raw(source, path.read_bytes(), 3))
        else:
            mutate.folder(source, folder)
    check = ["repo", "check", "repository"]
    return [[*check, *source.choice(([], [], ["--json"], ["--gpus", "0"], ["--gpus", "2"]))]]


_PIECES = (
    "dims: -1", "dims: 0", "dims: [ 1, 2 ]", "max_batch_size: -1", "max_batch_size: 0", "TYPE_STRING", "TYPE_INVALID",
    "TYPE_FP32",
    "KIND_GPU", "KIND_MODEL", "count: 0", "count: -5", "gpus: [ 7 ]", "{", "}", '"', "#", ":", "platform: \"\"",
    'backend: "x"',
    'key: ""', 'string_value: "-1"', 'string_value: "\\033[31m"', 'string_value: "\\xff"', "99999999999999999999",
    "0x7f", "1e9",
    "model_version: 9", "sequence_batching { }", "preferred_batch_size: 0",
    "version_policy: { specific { versions: 7 } }",
    'default_model_filename: "../../x"', 'label_filename: "/etc/passwd"', "reshape: { shape: [ ] }", "optional: true",
    "is_shape_tensor: true",
    "parameters: { key: \"EXECUTION_ENV_PATH\" value: { string_value: \"$$TRITON_MODEL_DIRECTORY/e\" } }",
    "response_cache { enable: true }",
    "input_data_file: \"w\"", "random_data: true", "dims: 99999999999",
    'cc_model_filenames { key: "8.6" value: "../x" }',
    'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }', 'name: "\\u202e"',
    "model_transaction_policy { decoupled: true }",
)  # fmt: skip


def _words(source: random.Random, text: str) -> str:
    """A text of words, some lost, doubled, swapped, or replaced by words from elsewhere."""
    lines = text.split("\n")
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(lines))
        words = lines[at].split(" ")
        place = source.randrange(len(words))
        kind = source.randrange(6)
        if kind == 0:
            words[place] = source.choice(_PIECES)
        elif kind == 1:
            words[place] = source.choice(mutate.ODD_TEXTS)
        elif kind == 2:
            words.insert(place, source.choice(_PIECES))
        elif kind == 3:
            del words[place]
        elif kind == 4:
            lines.insert(at, source.choice(lines))
            continue
        else:
            words[place] = "".join(
                str(source.choice((0, -1, 7, 10**12))) if one.isdigit() else one for one in words[place]
            )
        lines[at] = " ".join(words)
    return "\n".join(lines)


def samples(source: random.Random, place: Path, sound: Sound) -> Commands:
    """Files of questions for a load test, of texts and of histories."""
    history = source.random() < 0.4
    if history and source.random() < 0.7:
        rows: list[Any] = [
            {"id": n, "history": [f"i{n}", "i2"], "label": "i3", "offline": ["i3", "i4"]} for n in range(8)
        ]  # fmt: skip
        rows = source.choice((mutate.tree, mutate.similar, lambda _, same: same))(source, rows)
        rows = rows if isinstance(rows, list) else [rows]
        content = "\n".join(json.dumps(row) for row in rows) if source.random() < 0.6 else json.dumps(rows)
        path = place / source.choice(("s.jsonl", "s.json", "s.ndjson", "s.jsonl.gz"))
        data = content.encode()
        data = mutate.raw(source, data) if source.random() < 0.3 else data
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    else:
        path, _ = write_table(
            source, place, [{"id": str(n), "offline": row["label"], **row} for n, row in enumerate(ROWS)]
        )
    options = source.choice((*([[]] * 24), ["--min-agreement", "0.9"], ["--min-accuracy", "1"], ["--find-rate"],
    ["--rate", "nan"],
                             ["--seconds", "nan"], ["--users", "0"], ["--workers", "9"], ["--warmup", "inf"],
                             ["--rate", "-1"]))  # fmt: skip
    return [["loadtest", path.name, "--model", "history" if history else "text", *options]]


KINDS: Mapping[str, Callable[[random.Random, Path, Sound], Commands]] = {
    "recipe": recipes, "table": tables, "checkpoint": checkpoints, "repository": repositories, "samples": samples,
}  # fmt: skip
