"""``amazon-2023``: the official review files of Amazon Reviews 2023 (Hou et al. 2024), by category."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from lwc.core.errors import DataError
from lwc.core.machine import cache_dir
from lwc.core.store import file_digest, read_json, write_json
from lwc.data.download import download
from lwc.data.rows import Progress, Rows
from lwc.data.source import Input, Source, quiet
from lwc.data.sources import mcauley
from lwc.recipe import Amazon2023

BASE = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories/"
CATEGORIES = (
    "All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Baby_Products",
    "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food",
    "Handmade_Products", "Health_and_Household", "Health_and_Personal_Care", "Home_and_Kitchen",
    "Industrial_and_Scientific", "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments",
    "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors",
    "Subscription_Boxes", "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games", "Unknown",
)  # fmt: skip


def fetch(category: str, progress: Progress) -> Path:
    """The category's file, from ``LWC_DATA_DIR``, the cache, or the official host.

    The publisher gives no checksums. The SHA-256 of the first download is written to ``<file>.sha256.json``, and every
    later run checks the file against it, so that the data of a recipe cannot change unnoticed.

    Raises:
        DataError: no such category, or not the file that was first downloaded.
        MissingDependency: the file is not on this machine, and there is no network.
    """
    if category not in CATEGORIES:
        near = difflib.get_close_matches(category, CATEGORIES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"categories: {', '.join(CATEGORIES)}"
        raise DataError(f"amazon-2023: no category {category!r}", hint)
    name = f"{category}.jsonl.gz"
    given = Path(os.environ.get("LWC_DATA_DIR") or "/nonexistent") / name
    if given.is_file():
        return given
    folder = cache_dir() / "amazon-2023"
    path = download(
        BASE + name, folder / name, None, f"download {BASE}{name} yourself and put it into $LWC_DATA_DIR", progress
    )
    pin = folder / f"{name}.sha256.json"
    found = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    if not pin.is_file():
        write_json(pin, found)
    elif read_json(pin) != found:
        raise DataError(f"{path}: not the file that was pinned in {pin.name}", "delete both to download it again")
    return path


def read(source: Amazon2023, progress: Progress) -> Rows:
    """Reviews of the category."""
    path = fetch(source.category, progress)
    progress(f"reading {path.name}")
    yield from mcauley.read_file(path)


def _files(settings: Amazon2023) -> dict[str, Path]:
    path = fetch(settings.category, quiet)
    return {path.name: path}


SOURCE = Source[Amazon2023](
    read,
    _files,
    digests=lambda settings: {},  # the content is pinned
    inputs=lambda settings: [Input(name, path) for name, path in _files(settings).items()],
)
