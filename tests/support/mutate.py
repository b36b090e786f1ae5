"""Ways to damage any input: its bytes, the values of a tree, the files of a folder. Not a test."""

from __future__ import annotations

import bz2
import copy
import gzip
import lzma
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

ODD_TEXTS = (
    "", " ", "\n", "\t", "\0", "a\x1b[31mred", "\u202eevil", "\x9b2J", "\r", "a\rb", "\ud800", "\ufeff", "\u2028", "%s",
    "{0}", "${HOME}", "~", "[bold]x[/bold]", "[/]", "../../etc/passwd", "/dev/null", "/", ".", "..", "*", "?[", "**/*",
    "nan", "inf", "-0", "1e999", "0x10", "2.5x", "1_000", "yes", "null", "true", "é", "\u0301", "\U0001f600", "名前",
    "x" * 300, "x" * 70_000, "package:", "package:..", "package:a.b.c", "package:json", "hub/none", "a:b", "a,b", "#",
    "'",
    '"', "\\", "<script>", "__class__", "cp1252", "hex", "utf-16", "rot13", "idna", "base64",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 10**6, 2**31, 2**63, 2**64, 10**30, -(2**63), 0.0, -0.0, 0.5, 1e-300, 1e308,
    float("inf"), float("-inf"), float("nan"), [], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": 1}}}, [1, "a", None],
)  # fmt: skip


def odd(source: random.Random) -> Any:
    """A value that few expect."""
    return source.choice(ODD_TEXTS) if source.random() < 0.4 else copy.deepcopy(source.choice(ODD_VALUES))


def raw(source: random.Random, content: bytes, most: int = 8) -> bytes:
    """Bytes flipped, replaced, cut out, repeated, put in, or lost at the end."""
    found = bytearray(content)
    for _ in range(source.randint(1, most)):
        at = source.randrange(len(found) + 1)
        length = source.choice((1, 1, 2, 8, 40, 1000))
        kind = source.randrange(7)
        if kind == 0:
            found[at : at + 1] = bytes([source.randrange(256)])
        elif kind == 1:
            found[at:at] = source.randbytes(length)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = found[at : at + length] * source.choice((1, 2, 20))
        elif kind == 4:
            found[at:at] = source.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
        elif kind == 5 and source.random() < 0.4:
            del found[at:]
        elif at < len(found):
            found[at] ^= 1 << source.randrange(8)
    return bytes(found)


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*where, key)
        yield from places(item, (*where, key))


def tree(source: random.Random, value: Any, most: int = 3, odd_value: Callable[[random.Random], Any] = odd) -> Any:
    """A copy with values replaced, removed, repeated, swapped, nested deeper, or under another key."""
    value = copy.deepcopy(value)
    for _ in range(source.randint(1, most)):
        found = list(places(value))
        if not found:
            return odd_value(source)
        *above, key = source.choice(found)
        parent = value
        for step in above:
            parent = parent[step]
        kind = source.randrange(8)
        if kind <= 2:
            parent[key] = odd_value(source)
        elif kind == 3:
            del parent[key]
        elif kind == 4:
            parent[key] = [parent[key]] if source.random() < 0.5 else {str(key): parent[key]}
        elif kind == 5:
            *other, last = source.choice(found)
            branch = value
            for step in other:
                branch = branch[step]
            parent[key] = copy.deepcopy(branch[last])
        elif isinstance(parent, dict):
            name = source.choice(ODD_TEXTS) if source.random() < 0.4 else _misspelt(source, str(key))
            parent[name] = parent.pop(key) if source.random() < 0.6 else odd_value(source)
        else:
            parent.insert(key, odd_value(source))
    return value


def similar(source: random.Random, value: Any, most: int = 2) -> Any:
    """A copy with values replaced by others of their kind: what passes the first checks and meets the later ones."""
    value = copy.deepcopy(value)
    for _ in range(source.randint(1, most)):
        *above, key = source.choice(list(places(value)) or [(None,)])
        parent = value
        for step in above:
            parent = parent[step]
        if key is not None:
            parent[key] = _other(source, parent[key])
    return value


def _other(source: random.Random, old: Any) -> Any:
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return source.choice((0, 1, 2, 3, 7, -1, old + 1, old - 1, old * 2, old * 1000, 2**31 - 1, 10**12))
    if isinstance(old, float):
        return source.choice((0.0, 1.0, 0.5, -old, old * 10, old * 1e6, old / 1e6, 1e-30, 1e30, 0.9999999))
    if isinstance(old, str):
        return source.choice((old, old.upper(), old + "x", old[:-1], source.choice(ODD_TEXTS)))
    if isinstance(old, list):
        return source.choice((old[:1], old[1:], old + old, old[::-1], []))
    if isinstance(old, dict):
        kept = source.sample(list(old), source.randint(0, len(old)))
        return {key: old[key] for key in old if key in kept}
    return odd(source)


def _misspelt(source: random.Random, name: str) -> str:
    at = source.randrange(len(name) + 1)
    return source.choice(
        (name[:at] + name[at + 1 :], name[:at] + "x" + name[at:], name.upper(), name + "s", name[::-1])
    )


def packed(source: random.Random, path: Path, content: bytes) -> Path:
    """Write ``content`` into a container, at times under the suffix of another; the path it got."""
    made: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": lambda data: _zip(source, path.name,
        data),
        ".zst": lambda data: source.randbytes(10) + data,
    }  # fmt: skip
    suffix = source.choice(list(made))
    inside = made[suffix](content)
    if source.random() < 0.5:
        inside = raw(source, inside, 3)
    if source.random() < 0.2:
        suffix = source.choice(list(made))
    found = path.with_name(path.name + suffix)
    found.write_bytes(inside)
    return found


def _zip(source: random.Random, name: str, content: bytes) -> bytes:
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for member in source.choice(([name], [name], [], [name, "b.csv"], [f"../{name}"], ["dir/"])):
            archive.writestr(member, content)
    return whole.getvalue()


def folder(source: random.Random, place: Path, most: int = 2) -> None:
    """Files of a folder removed, emptied, damaged, renamed, replaced by folders or links, or put in place of others."""
    for _ in range(source.randint(1, most)):
        files = sorted(path for path in place.rglob("*") if path.is_file())
        if not files:
            return
        path, kind = source.choice(files), source.randrange(10)
        if kind <= 3:
            path.write_bytes(raw(source, path.read_bytes()))
        elif kind == 4:
            path.unlink()
        elif kind == 5:
            path.write_bytes(
                source.choice((b"", b"\0" * 100, b"version https://git-lfs.github.com/spec/v1\n", b"null", b"[]"))
            )
        elif kind == 6:
            other = source.choice(files)
            path.write_bytes(other.read_bytes())
        elif kind == 7:
            path.unlink()
            path.mkdir()
        elif kind == 8:
            path.unlink()
            path.symlink_to(source.choice((path.name, "nowhere", "/dev/null", "..", "/")))
        else:
            name = source.choice(
                (
                    "a\x1b[31mb",
                    "\u202eb",
                    "x" * 200,
                    "a b",
                    "-rf",
                    "[bold]",
                    path.name.upper(),
                    f".{path.name}",
                    "b\udcff",
                )
            )
            path.rename(path.with_name(name))
        if source.random() < 0.1 and path.parent != place:
            shutil.rmtree(path.parent)
