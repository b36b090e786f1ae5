"""Review files with everything that goes wrong in them, and the count of what they hold. Not a test."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable

WORDS = (
    "the", "works", "great", "this", "is", "a", "bad", "cable", "5", "stars", "\u00e9t\u00e9", "don't", "<br />",
    "&amp;", '"quoted"', "back\\slash", "ok", ":)", "\U0001f600", "of", "and",
)  # fmt: skip


def text(source: random.Random, most: int = 30) -> str:
    """Words with the characters that break readers."""
    return " ".join(source.choice(WORDS) for _ in range(source.randint(0, most)))


def record_2014(source: random.Random, number: int) -> str:
    """A line of the 2014 release."""
    return json.dumps({
        "reviewerID": f"u{source.randint(0, 50)}", "asin": f"a{number % 7}", "reviewerName": "n", "helpful": [0, 1],
        "reviewText": text(source), "overall": float(source.randint(1, 5)), "summary": text(source, 4),
        "unixReviewTime": 1_300_000_000 + 86_400 * source.randint(0, 2000), "reviewTime": "01 13, 2014",
    })  # fmt: skip


def record_2018(source: random.Random, number: int) -> str:
    """A line of the 2018 release: a nested object, and no ASCII escapes."""
    return json.dumps({
        "overall": float(source.randint(1, 5)), "verified": True, "reviewerID": f"u{source.randint(0, 50)}",
        "asin": f"a{number % 7}", "style": {"Size:": " 7.0 oz"}, "reviewText": text(source),
        "summary": text(source, 4), "unixReviewTime": 1_400_000_000 + source.randint(0, 10**7),
    }, ensure_ascii=False)  # fmt: skip


def record_2023(source: random.Random, number: int) -> str:
    """A line of the 2023 release: milliseconds, and a parent item."""
    return json.dumps({
        "rating": float(source.randint(1, 5)), "title": text(source, 4), "text": text(source), "images": [],
        "asin": f"a{number}", "parent_asin": f"p{number % 7}", "user_id": f"u{source.randint(0, 50)}",
        "timestamp": 1_500_000_000_000 + source.randint(0, 10**9), "helpful_vote": 0, "verified_purchase": True,
    })  # fmt: skip


RECORDS: tuple[Callable[[random.Random, int], str], ...] = (record_2014, record_2018, record_2023)
# Lines that another program could write; the careful reader says what each is.
ODD = (
    '{"overall": NaN, "reviewText": "x"}', '{"overall": 3, "reviewText": NaN, "asin": "a"}',
    '{"rating": "4", "text": "as text"}', '{"rating": "4.0", "text": "t", "timestamp": "1500000000000"}',
    '{"rating": 4, "rating": 5, "text": "twice"}', '{"rating" : 4, "rating": 5, "text": "twice"}',
    '{"rating": 4, "text": ":) smile", "title": "a\\":b"}', '{"rating": 4, "text": "t", "style": {"a": 1, "a": 2}}',
    '{"rating": 4, "text": "ends in \\\\", "user_id": "u"}', '{"rating": 1e999, "text": "t"}', "{}", "[]", "null", "17",
    '{"rating": 4, "text": "lone \\ud800 surrogate"}', '{"rating": 6, "text": "t"}', '{"rating": true, "text": "t"}',
    '{"rating": 4, "text": "t", "timestamp": 99999999999999999999999}', '{"rating": 4, "text": "t", "user_id": 12}',
    '{"rating": 4, "text": null, "title": "only a title", "parent_asin": "", "asin": "b"}', "   ", "",
    '{"overall": 4, "reviewText": "t", "unixReviewTime": "01 13, 2014"}', '{"rating": 4, "text": "cut',
)  # fmt: skip


def review_file(source: random.Random, count: int) -> bytes:
    """``count`` lines of one release, some odd; perhaps a BOM, CRLF, or the brackets of an array."""
    make = source.choice(RECORDS)
    lines = [source.choice(ODD) if source.random() < 0.1 else make(source, n) for n in range(count)]
    if source.random() < 0.15:
        lines = ["[" + lines[0], *lines[1:]]
        lines = [line + "," for line in lines[:-1]] + [lines[-1] + "]"]
    elif source.random() < 0.15:
        lines = ["[", *(line + "," for line in lines), "]"]
    end = source.choice(("\n", "\n", "\r\n"))
    return source.choice((b"", b"", b"\xef\xbb\xbf")) + (end.join(lines) + source.choice(("", end))).encode(
        "utf-8", "surrogatepass"
    )


def damage(source: random.Random, content: bytes) -> bytes:
    """Bytes flipped, a piece cut out, or the end lost; sometimes nothing."""
    found = bytearray(content)
    for _ in range(source.choice((0, 0, 1, 3, 10))):
        found[source.randrange(len(found))] = source.randrange(256)
    if source.random() < 0.2:
        start = source.randrange(len(found))
        del found[start : start + source.randint(1, 40)]
    if source.random() < 0.3:
        del found[source.randrange(1, len(found) + 1) :]
    return bytes(found)


def packed(source: random.Random, content: bytes) -> bytes:
    """``content`` as gzip of one or several members, perhaps with padding between them."""
    cuts = sorted(source.randrange(len(content) + 1) for _ in range(source.choice((0, 0, 1, 3))))
    parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    padding = source.choice((b"", b"", b"\0" * 100))
    return padding.join(gzip.compress(part, source.choice((1, 6, 9))) for part in parts)


def present(content: bytes) -> int:
    """Lines of decompressed ``content`` that hold something: not blank, and not only an array's brackets or commas."""
    first, *rest = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    parts = [first.strip().removeprefix(b"[").strip(), *(part.strip() for part in rest)]
    return sum(part not in (b"", b"[", b"]", b",") and not _only_ends(part) for part in parts)


def _only_ends(part: bytes) -> bool:
    return part.startswith(b"{") and not part.rstrip(b",] \t\r")
