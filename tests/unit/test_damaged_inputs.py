"""What a fuzzer of user inputs found: each was a crash, a bug message, a hang, or an error without advice."""

from __future__ import annotations

import ast
import json
import os
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import command_line
import pyarrow as pa
import pytest
import torch
from planted_runs import finished_runs

from lwc.cli import main as cli
from lwc.cli import terminal
from lwc.cli.options import print_json
from lwc.core.errors import MISSING, USAGE, DataError, LwcError, ModelError, RecipeError
from lwc.core.store import MANIFEST, Store, digest_paths, read_json
from lwc.data.rows import Bad, Reason, Row
from lwc.data.sources.table import read_file
from lwc.models.families import CLASSIFICATION
from lwc.models.saved import Saved
from lwc.recipe import Columns
from lwc.recipe.data import Format
from lwc.recipe.file import parse_recipe
from lwc.report.compare import compare
from lwc.serving.loadtest.run import Load, Thresholds

MINIMAL = "schema_version: 1\nname: x\nmodel: {kind: config}\ntarget: {ratio: 2, of: blocks}\n"
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


def stream(path: Path, **columns: pa.Array) -> Path:
    table = pa.table(columns)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_arrow_offsets_that_lead_outside_the_file_do_not_crash(kind: pa.DataType, tmp_path: Path) -> None:
    words = ["good", "bad", "fair", "good"]
    path = stream(tmp_path / "t.arrow", text=pa.array(words, kind))
    whole = path.read_bytes()
    number = "<q" if kind == pa.large_string() else "<i"
    # The position of the third text, or of the second word of the dictionary; there, the third text's number too.
    for old in ([4, 7], [2, 0]) if pa.types.is_dictionary(kind) else ([4, 7],):
        found = whole.find(b"".join(struct.pack(number, one) for one in old))
        assert found > 0
        path.write_bytes(whole[:found] + struct.pack(number, 10**9) + whole[found + struct.calcsize(number) :])
        (bad,) = read_file(path, Columns())
        assert isinstance(bad, Bad)
        assert bad.reason == Reason.TRUNCATED


def test_arrow_text_that_is_not_utf8_spoils_only_its_row(tmp_path: Path) -> None:
    path = stream(tmp_path / "t.arrow", text=pa.array(["good", "bad!", "fair"]))
    path.write_bytes(path.read_bytes().replace(b"bad!", b"b\xff\xfed"))
    assert [type(one) for one in read_file(path, Columns())] == [Row, Bad, Row]


def test_an_unknown_time_zone_inside_lists_is_named(tmp_path: Path) -> None:
    times = pa.array([[datetime(2020, 1, 1)]], pa.list_(pa.timestamp("s", "No/Where")))
    stream(tmp_path / "t.arrow", text=pa.array(["good"]), time=times)
    with pytest.raises(DataError, match="unknown time zone, 'No/Where'") as caught:
        list(read_file(tmp_path / "t.arrow", Columns(time="time")))
    assert caught.value.hint == "write it in UTC"
    assert len(list(read_file(tmp_path / "t.arrow", Columns()))) == 1, "nobody reads that column"


def test_a_header_that_no_delimiter_reads(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"a" b,"text"x;"label" |\n"1"2,3\n')
    with pytest.raises(DataError, match="line 1: the header cannot be read") as caught:
        list(read_file(tmp_path / "t.csv", Columns(label="label")))
    assert caught.value.hint


def test_a_data_file_whose_name_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(b"t\xff.csv")).write_text("text\na\n")
    Path("r.yaml").write_text(MINIMAL + "data: {source: {kind: table, paths: ['*.csv']}}\n")
    ended = command_line.run(["data", "inspect", "r.yaml"], monkeypatch)
    assert (ended.code, command_line.faults(ended)) == (USAGE, [])
    assert "its name is not UTF-8" in ended.err
    ended = command_line.run(["validate", os.fsdecode(b"\xff.yaml")], monkeypatch)
    assert (ended.code, command_line.faults(ended)) == (USAGE, [])
    assert len(digest_paths([tmp_path])) == 64


@pytest.mark.parametrize("changes", [{"data_offsets": []}, {"data_offsets": [0, [4]]}, {"shape": [[1]]}, {"shape": 1}])
def test_a_safetensors_header_of_other_values(changes: dict[str, Any], tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelError, match="without a safetensors header"):
        _ = Saved(tmp_path, CLASSIFICATION).weights


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINIMAL + 'description: "\\ud800"\n', r"line 5: description: \\ud800 is half a character"),
        (MINIMAL + '"\\ud800": 1\n', "line 5: .*a key must be plain text"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "more than 100,000 values; aliases",
        ),
    ],
)
def test_recipes_that_hang_or_cannot_be_written(text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        parse_recipe(text, "r.yaml")
    assert caught.value.hint


@pytest.mark.parametrize("encoding", ["idna", "undefined", "hex"])
def test_encodings_of_no_text(encoding: str) -> None:
    with pytest.raises(ValueError, match="no such encoding"):
        Format(encoding=encoding)
    assert Format(encoding="utf-16").encoding == "utf-16"


@pytest.mark.parametrize(
    ("override", "told", "hint"),
    [
        ("gates.3.value=1", "gates.3 is not in the list", "to add one, set the list whole: --set gates=[…]"),
        ("gates.0=1", "gates.0 is not in the list", "it is empty"),
        ("seed.x=1", "seed is a single value", "--set seed="),
        ("seed.x.y=1", "seed is a single value", "--set seed="),
        ('description="\\ud800"', "half a character", "schema"),
    ],
)  # fmt: skip
def test_every_refused_override_says_what_to_do(override: str, told: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        parse_recipe(MINIMAL + "gates: []\nseed: 1\n", "r.yaml", [override])
    assert hint in caught.value.hint


@pytest.mark.parametrize("content", [b"{", b'{"a": "\xff"}', b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000])
def test_json_that_lwc_did_not_write_is_no_bug(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(LwcError, match=r"x\.json.*not valid JSON") as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.exit_code == USAGE


@pytest.mark.parametrize(
    "manifest", ["[]", "3", '{"key": "k"}', '{"key": "k", "files": {"a": 1}, "digest": "", "seconds": 1}']
)
def test_a_manifest_of_another_shape_is_no_result(manifest: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.place("data", "k").mkdir(parents=True)
    (store.place("data", "k") / MANIFEST).write_text(manifest)
    assert store.find("data", "k") is None


@pytest.mark.parametrize("size", [1 << 50, 1 << 62])
def test_too_little_memory_is_no_bug(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def app(standalone_mode: bool) -> None:
        torch.empty(size, dtype=torch.uint8) if size < 1 << 60 else bytearray(size)

    monkeypatch.setattr(cli, "app", app)
    ended = command_line.run([], monkeypatch)
    assert (ended.code, command_line.faults(ended)) == (MISSING, [])
    assert "error: out of memory" in ended.err


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("ratios",), None, "ratios"),
        (("task",), "knitting", "task"),
        (("quality", "base", "accuracy"), None, "accuracy"),
        (("quality", "floors", "majority", "accuracy"), {**INTERVAL, "low": {}}, r"accuracy\.low"),
        (("gates",), [{}], r"gates\.0"),
        (("recipe", "resolved"), 3, r"recipe\.resolved"),
    ],
)
def test_a_report_that_was_edited_is_named(path: tuple[str, ...], value: Any, told: str, tmp_path: Path) -> None:
    runs = finished_runs(tmp_path)
    report = json.loads((runs / "slow" / "report.json").read_text())
    branch = report
    for key in path[:-1]:
        branch = branch[key]
    branch[path[-1]] = value
    (runs / "slow" / "report.json").write_text(json.dumps(report))
    with pytest.raises(RecipeError, match=rf"slow/report\.json: not a report: .*{told}") as caught:
        compare([runs / "fast", runs / "slow"])
    assert ("lwc report" if told != "task" else "classification") in caught.value.hint


def test_nothing_from_a_file_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    acts = "\x1b[31m\x9b2J\u202e\r"
    terminal.error(LwcError(f"a{acts}\nb", f"c{acts}"))
    terminal.note(f"d{acts}")
    terminal.tree({f"e{acts}": f"f{acts}"})
    print_json({"g": acts, "h": "é\ud800"})
    said = capsys.readouterr()
    assert not set("\x1b\x9b\u202e\r") & set(said.err + said.out)
    assert said.err.startswith("error: a")
    assert "\nb\n" in said.err
    assert json.loads(said.out) == {"g": acts, "h": "é\ud800"}
    assert "é" in said.out


@pytest.mark.parametrize("times", [(float("nan"), 1.0), (1.0, float("inf")), (1.0, float("nan")), (float("inf"), 0.0)])
def test_a_load_test_of_no_length_is_refused(times: tuple[float, float]) -> None:
    with pytest.raises(RecipeError) as caught:
        Load(4, *times)
    assert caught.value.hint


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(RecipeError):
        Load(4, 1.0, 0.0, rate)


def test_a_limit_that_nothing_is_above_is_refused() -> None:
    with pytest.raises(RecipeError, match="max_p95_ms is nan"):
        Thresholds(max_p95_ms=float("nan"))


def test_every_error_of_a_user_says_what_to_do(repository_root: Path) -> None:
    kinds = {"RecipeError", "DataError", "ModelError", "TargetError", "MissingDependency"}
    lacking = [
        f"{path.relative_to(repository_root)}:{call.lineno}"
        for path in sorted((repository_root / "lwc").rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in kinds
        and not any(isinstance(one, ast.Starred) for one in call.args)
        and (len(call.args) < 2 or (isinstance(call.args[1], ast.Constant) and not call.args[1].value))
        and not any(one.arg == "hint" for one in call.keywords)
    ]
    assert not lacking


@pytest.mark.parametrize("content", ["[]", '{"evaluate": 3}', "{"])
def test_a_record_of_stages_that_was_edited_is_named(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = finished_runs(tmp_path / "runs")
    (runs / "slow" / "stages.json").write_text(content)
    Path("r.yaml").write_text(MINIMAL.replace("name: x", "name: slow"))
    for command in (
        ["plan", "r.yaml"],
        ["compare", "runs/fast", "runs/slow"],
        ["export", "runs/slow", "--to", "tensorrt"],
    ):
        ended = command_line.run(command, monkeypatch)
        assert (ended.code, command_line.faults(ended)) == (USAGE, []), ended.err
        assert "runs/slow/stages.json" in ended.err
