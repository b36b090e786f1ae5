"""Columns of strings as Arrow's bytes, and cleaning of many strings at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lwc.core.arrays import Array
from lwc.data.cleaning import clean

_SPACE = 32
# Control characters of ASCII to spaces.
_CONTROLS = bytes(_SPACE if byte < _SPACE or byte == 127 else byte for byte in range(256))


def contents(texts: pa.Array) -> tuple[Array, Array]:
    """The bytes (B,) of an array of strings, and the offsets (N + 1,) at which each begins and the last one ends."""
    if not len(texts):
        return np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    _, places, data = texts.buffers()
    offsets = np.frombuffer(places, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    raw = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    return raw[offsets[0] : offsets[-1]], offsets - offsets[0]


def from_contents(data: Array, offsets: Array) -> pa.Array:
    """The array of strings with these bytes, which must be UTF-8."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)


def rows_with(places: Array, offsets: Array) -> Array:
    """Whether (N,) a text contains one of the ascending byte positions (P,)."""
    inside = np.searchsorted(places, offsets)
    found: Array = inside[1:] > inside[:-1]
    return found


def with_texts(texts: pa.Array, where: Array, given: Sequence[str]) -> pa.Array:
    """``texts`` in which those with a true ``where`` (N,) are replaced, in order."""
    return pc.replace_with_mask(texts, pa.array(where), pa.array(given, pa.string())) if len(given) else texts


def clean_many(texts: pa.Array) -> pa.Array:
    """`lwc.data.cleaning.clean` of every text: array operations for plain ASCII, one by one for the others."""
    data, offsets = contents(texts)
    odd = rows_with(np.flatnonzero((data == ord("&")) | (data == ord("<")) | (data >= 128)), offsets)
    if not odd.any():
        return _tidy(texts)
    cleaned = [clean(text) for text in texts.filter(pa.array(odd)).to_pylist()]
    plain = _tidy(texts.filter(pa.array(~odd)))
    place = np.empty(len(texts), dtype=np.int64)
    place[~odd], place[odd] = np.arange(len(plain)), len(plain) + np.arange(len(cleaned))
    return pa.concat_arrays([plain, pa.array(cleaned, pa.string())]).take(pa.array(place))


def _tidy(texts: pa.Array) -> pa.Array:
    """ASCII texts with spaces for control characters, one space between words, and none at the ends."""
    data, offsets = contents(texts)
    if not len(data):
        return texts
    changed = bool(data.min() < _SPACE or data.max() == 127)
    if changed:
        data = np.frombuffer(data.tobytes().translate(_CONTROLS), dtype=np.uint8)
    space = data == _SPACE
    drop = np.zeros(len(data), dtype=bool)
    np.logical_and(space[1:], space[:-1], out=drop[1:])
    begins, ends = offsets[:-1], offsets[1:]
    filled = np.flatnonzero(begins < ends)
    begins, ends = begins[filled], ends[filled]
    drop[begins] = space[begins]
    for row in np.flatnonzero(space[ends - 1]).tolist():
        begin, end = int(begins[row]), int(ends[row])
        drop[begin + len(data[begin:end].tobytes().rstrip(b" ")) : end] = True
    places = np.flatnonzero(drop)
    if len(places):
        return from_contents(data[~drop], offsets - np.searchsorted(places, offsets))
    return from_contents(data, offsets) if changed else texts
