"""``config.pbtxt`` as a configuration, or what keeps it from being one: its encoding, a line, a field."""

from __future__ import annotations

import codecs
import difflib
import re
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.store import LFS_POINTER
from lwc.serving.checks.model import BACKEND_FILES, DERIVED, Finding, Machine, Model
from lwc.serving.triton.config import parse

CONFIG = "config.pbtxt"
# Real ones have a few kilobytes; the parser takes minutes for what is no configuration.
_MOST_BYTES = 4 * 1024**2
# What deployment scripts fill in: Python's and the shell's, Jinja's and Helm's, CMake's.
_PLACEHOLDER = re.compile(r"\$\{\w*\}?|\$\w+|\{\{.*?\}\}|@\w+@|<%.*?%>")


def read_model(folder: Path, machine: Machine) -> Model | Finding:
    """The model, or what keeps its configuration from being read."""
    path = folder / CONFIG
    where = f"{folder.name}/{CONFIG}"
    if not path.is_file():
        return _no_config(folder, machine)
    size = path.stat().st_size
    if size > _MOST_BYTES:
        return Finding("error", folder.name, where, f"has {size} bytes, so it is no configuration", "replace it")
    data = path.read_bytes()
    if fault := encoding_fault(data):
        return Finding("error", folder.name, where, *fault)
    text = data.decode("utf-8")
    try:
        return Model(folder, parse(text))
    except text_format.ParseError as error:
        line = error.GetLine() or 0
        what = re.sub(r"^\d+:\d+ : ", "", str(error))
        place = f"{where}:{line}" if line else where
        return Finding(
            "error", folder.name, place, *_explained(what, text.splitlines()[line - 1 : line] if line else [])
        )
    except (DecodeError, UnicodeError, ValueError) as error:  # an escape that makes a string no UTF-8
        return Finding("error", folder.name, where, f"does not parse: {error}", "write it as text")


def encoding_fault(data: bytes) -> tuple[str, str] | None:
    """What is wrong with the bytes of a text file and what to do; None where they are UTF-8 as Triton reads it."""
    if data.startswith(LFS_POINTER):
        return "a Git LFS pointer, not the file", "run `git lfs pull`"
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(mark):
            return "not UTF-8 but UTF-16", "save it as UTF-8 without a byte order mark"
    if data.startswith(codecs.BOM_UTF8):
        return (
            "starts with a byte order mark, which Triton takes for part of the first word",
            "save it as UTF-8 without a byte order mark",
        )
    at = data.find(b"\0")
    if at >= 0:
        kind = "not UTF-8 but UTF-16" if at < 4 else "binary"
        return f"{kind}: there is a zero byte in line {_line(data, at)}", "save it as UTF-8 text"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        return f"not UTF-8: byte 0x{byte:02x} in line {_line(data, error.start)}", "save it as UTF-8"
    return None


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _no_config(folder: Path, machine: Machine) -> Finding:
    # Triton passes over stray folders inside a model but not beside one: it does not start.
    if (folder / CONFIG).is_dir():
        what, hint = f"{CONFIG} is a folder", "replace it with the file"
    elif (folder / CONFIG).is_symlink():
        what, hint = f"{CONFIG} is a link to nothing", "replace it with the file"
    elif near := difflib.get_close_matches(CONFIG, [path.name for path in folder.iterdir()], n=1, cutoff=0.7):
        what, hint = f"no {CONFIG}, so it is no model; there is {near[0]!r}", f"rename {near[0]} to {CONFIG}"
    elif any(path for name in BACKEND_FILES.values() for path in folder.glob(f"[0-9]*/{name}")):
        hint = f"write its {CONFIG}: such a server shows it at /v2/models/{folder.name}/config"
        return Finding(machine.incomplete, folder.name, f"{folder.name}/", f"no {CONFIG}: {DERIVED}", hint)
    else:
        what, hint = f"no {CONFIG}, so it is no model", f"remove it, or write its {CONFIG}"
    return Finding("error", folder.name, f"{folder.name}/", what, hint)


def _explained(what: str, line: list[str]) -> tuple[str, str]:
    """A message of the protobuf parser, and what to do about it."""
    # Quoted parts may be anything; comments are no part of the configuration.
    placeholder = _PLACEHOLDER.search(re.sub(r"\"[^\"]*\"|'[^']*'|#.*", "", line[0])) if line else None
    if placeholder:
        return f"{placeholder[0]} is a placeholder of a template", "fill the template in before serving it"
    unknown = re.search(r'Message type "inference\.([\w.]+)" has no field named "(\w+)"', what)
    if unknown:
        message = pb.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{unknown[1]}")
        near = difflib.get_close_matches(unknown[2], message.fields_by_name, n=1)
        return what, f"did you mean {near[0]}?" if near else "remove it (a newer tritonclient may know it)"
    if "another member of oneof" in what:
        return what, "keep one of the two"
    return what, "write it as Triton's model_config.proto has it"
