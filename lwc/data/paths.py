"""Where data files are: named paths, folders and patterns, and ``LWC_DATA_DIR``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import glob
from pathlib import Path

from lwc.core.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather")
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
_WILD = frozenset("*?[")


def format_of(name: str | Path) -> str:
    """The suffix that names a file's format, lower case, without those of compression; empty if there is none."""
    suffixes = (suffix.lower() for suffix in reversed(Path(name).suffixes))
    return next((suffix for suffix in suffixes if suffix not in PACKED_SUFFIXES), "")


def _bases(name: str) -> list[Path]:
    folder = os.environ.get("LWC_DATA_DIR")
    return [Path(), Path(folder)] if folder and not Path(name).is_absolute() else [Path()]


def _candidates(name: str) -> list[Path]:
    path = Path(name).expanduser()
    return [base / path for base in _bases(str(path))]


def _missing(name: str, what: str) -> DataError:
    if "://" in name:
        return DataError(f"{name}: a URL, and only local files are read", "download the file and name its path")
    if "$" in name:
        return DataError(f"{name}: {what}; variables are not expanded", "write the path itself, or set LWC_DATA_DIR")
    places = ", ".join(str(candidate.absolute()) for candidate in _candidates(name))
    return DataError(
        f"{name}: {what} (looked at {places})",
        "fix the path, which starts at the working directory and not at the recipe, or set LWC_DATA_DIR",
    )


def locate(name: str) -> Path:
    """A data file by path; a relative one is looked up in the working directory, then in ``LWC_DATA_DIR``.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    for candidate in _candidates(name):
        if candidate.is_file():
            if not os.access(candidate, os.R_OK):
                raise DataError(f"{candidate}: no permission to read it", f"chmod +r {candidate}")
            try:
                str(candidate).encode("utf-8")
            except UnicodeEncodeError as error:  # reports and manifests name their files
                raise DataError(f"{candidate}: its name is not UTF-8", "rename the file") from error
            return candidate
    raise _missing(name, "no such data file")


def locate_all(names: Iterable[str]) -> dict[str, Path]:
    """Files by name. A folder stands for the tables in it, a pattern such as ``parts/*.csv`` for what it matches.

    Raises:
        DataError: there is no such file, or a folder does not show which of its files are the data.
    """
    found: dict[str, Path] = {}
    for name in names:
        folder = next((one for one in _candidates(name) if one.is_dir()), None)
        if folder is not None:
            found.update(_of_folder(name, folder))
        elif _WILD & set(name) and not any(one.is_file() for one in _candidates(name)):
            found.update(_matching(name))
        else:
            found[name] = locate(name)
    return found


def _matching(pattern: str) -> dict[str, Path]:
    pattern = str(Path(pattern).expanduser())
    for base in _bases(pattern):
        paths = {path: base / path for path in sorted(glob(pattern, root_dir=base, recursive=True))}  # noqa: PTH207
        files = {path: locate(str(place)) for path, place in paths.items() if place.is_file()}
        if files:
            return files
    raise _missing(pattern, "no data file matches the pattern")


def _of_folder(name: str, folder: Path) -> dict[str, Path]:
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise DataError(f"{name}: a folder of datasets' save_to_disk with the splits {', '.join(splits)}",
                        f"name one of them, e.g. {Path(name) / (splits[0] if splits else 'train')}")  # fmt: skip
    below = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files = [path for path in below if not any(part[0] in "._" for part in path.parts)]
    tables = [path for path in files if format_of(path) in TABLE_SUFFIXES]
    if (folder / "state.json").is_file():  # datasets' save_to_disk: the JSON files beside the rows describe them
        tables = [path for path in tables if format_of(path) == ".arrow"]
    kinds = sorted({format_of(path) for path in tables})
    if not tables:
        some = ", ".join(map(str, files[:5])) or "nothing"
        raise DataError(f"{name}: a folder without {', '.join(TABLE_SUFFIXES)} files (it has {some})",
                        "name the data files")  # fmt: skip
    if len(kinds) > 1:
        raise DataError(f"{name}: a folder with {' and '.join(kinds)} files, which may be the same rows twice",
                        f"name a pattern, e.g. {name.rstrip('/')}/*{kinds[0]}")  # fmt: skip
    return {str(Path(name) / path): locate(str(folder / path)) for path in tables}


def local_dataset(name: str) -> str | None:
    """A dataset's folder, in the working directory or ``LWC_DATA_DIR``; None if there is none of this name."""
    for base in (Path(), Path(os.environ.get("LWC_DATA_DIR") or ".")):
        if (base / name).is_dir():
            return str(base / name)
    return None
