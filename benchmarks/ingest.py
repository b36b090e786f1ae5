"""Ingestion against pandas and Hugging Face datasets, on real reviews repeated to millions of rows.

    python benchmarks/ingest.py --corpus DIR [--millions 0.5 2 4] [--compared 2] [--pandas-rows N] [--hf-python PYTHON]
    python benchmarks/ingest.py --damaged 10000

The corpus is made from the 2023 files under ``LWC_DATA_DIR``, without ``images``: its type differs from row to row,
which `datasets` refuses. Each copy has its own users and the words of each text in another order, so copies are not
duplicates of each other; a text that occurs twice in the original occurs twice in each copy. Every case runs in a
separate process. ``pandas`` parses only. ``pandas_same`` and ``datasets`` do the same cleaning, labels, exact
de-duplication, split by user and Parquet files as lwc, but do not look for near duplicates; datasets uses as many
processes as lwc. Memory is the sum over the process tree (proportional set size, shared pages counted once), sampled
twice a second. Linux only.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SEED = 17
A_FILE = 500_000
ELECTRONICS = 43_886_944  # rows of the 2023 category, as its authors count them
LIMIT = 1.5e9


def originals() -> list[dict[str, Any]]:
    """Real rows of the 2023 release."""
    folder = Path(os.environ["LWC_DATA_DIR"])
    files = sorted([*(folder / "2023-books-jsonl").glob("*.gz"), *(folder / "2023-software-jsonl").glob("*.gz")])
    rows = [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    return [{key: value for key, value in row.items() if key != "images"} for row in rows]


def corpus(folder: Path, rows: int) -> list[Path]:
    """Files of half a million rows each; those that are there stay."""
    import numpy as np
    import orjson
    from isal import igzip

    folder.mkdir(parents=True, exist_ok=True)
    given = originals()
    texts = [row["text"].split(" ") for row in given]
    files = []
    for number in range(-(-rows // A_FILE)):
        path = folder / f"{number:03d}.jsonl.gz"
        files.append(path)
        if path.is_file():
            continue
        generator = np.random.default_rng(number)
        order = {}
        with igzip.open(path.with_suffix(".part"), "wb", compresslevel=2) as target:
            for index in range(A_FILE):
                copy, at = divmod(index, len(given))
                if at == 0:
                    order = {}
                row, words = given[at], texts[at]
                if row["text"] not in order:
                    order[row["text"]] = " ".join([words[i] for i in generator.permutation(len(words))])
                user = f"{row['user_id']}{number}-{copy}"
                target.write(orjson.dumps({**row, "user_id": user, "text": order[row["text"]]}) + b"\n")
        path.with_suffix(".part").rename(path)
    return files


def leg_lwc(files: list[str], out: Path, workers: int) -> dict[str, Any]:
    """What is measured."""
    from lwc.data.ingest.run import ingest
    from lwc.recipe import Data, McAuleyFile

    quality = ingest(Data(source=McAuleyFile(kind="mcauley", paths=tuple(files))), SEED, out, workers)
    kept = sum(path.stat().st_size for path in out.rglob("*.parquet"))
    account = quality["rows_left_out_by_label_scheme"] + sum(quality["rows_bad"].values()) + quality["rows_used"]
    assert quality["rows_read"] == account + sum(quality["duplicates"].values())
    return {"rows": quality["rows_read"], "used": quality["rows_used"], "parquet_bytes": kept,
            "seconds_of": quality["seconds"], "duplicates": quality["duplicates"]}  # fmt: skip


def prepared() -> Callable[[Mapping[str, Sequence[Any]]], dict[str, list[Any]]]:
    """What the others do with a batch of columns: clean, label, hash, split by user; as lwc does it one at a time."""
    import xxhash

    from lwc.data.cleaning import clean
    from lwc.data.duplicates import fold
    from lwc.data.splits import positions_of

    def prepare(batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        texts = [clean(text) for text in batch["text"]]
        folded = [fold(text) for text in texts]
        stars = list(batch["rating"])
        places = positions_of(SEED, batch["user_id"]).tolist()
        kept = [i for i in range(len(texts)) if folded[i] and stars[i] != 3]
        users, items, times = (list(batch[name]) for name in ("user_id", "parent_asin", "timestamp"))
        return {
            "text": [texts[i] for i in kept],
            "label": [int(stars[i] >= 4) for i in kept],
            "key": [xxhash.xxh3_64_intdigest(folded[i].encode()) >> 1 for i in kept],
            "split": [0 if places[i] < 0.7 else 1 if places[i] < 0.8 else 2 for i in kept],
            "user": [users[i] for i in kept],
            "item": [items[i] for i in kept],
            "time": [times[i] // 1000 for i in kept],
        }

    return prepare


def distinct(keys: Any, labels: Any) -> Any:
    """Rows that stay, ascending: the first of each text, none where its copies have different labels."""
    import numpy as np

    _, first, group = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    totals = np.bincount(group, np.asarray(labels))
    mixed = (totals > 0) & (totals < np.bincount(group))
    return np.sort(first[~mixed])


def leg_pandas(files: list[str], out: Path, workers: int) -> dict[str, Any]:
    """Parsing only, a file at a time so that memory is enough."""
    import pandas as pd

    return {"rows": sum(len(pd.read_json(file, lines=True, nrows=rows_of_a_file())) for file in files)}


def leg_pandas_same(files: list[str], out: Path, workers: int) -> dict[str, Any]:
    """Parsing and all that datasets does, a file at a time; rows wait on disk until their duplicates are known."""
    import numpy as np
    import pandas as pd

    from lwc.data.splits import NAMES

    prepare, rows = prepared(), 0
    keys, labels = [], []
    for number, file in enumerate(files):
        frame = pd.read_json(file, lines=True, nrows=rows_of_a_file(), convert_dates=False)
        rows += len(frame)
        made = pd.DataFrame(prepare({name: frame[name].tolist() for name in frame}))
        keys.append(made["key"].to_numpy())
        labels.append(made["label"].to_numpy())
        made.to_parquet(out / f"{number}.waiting.parquet")
    kept = distinct(np.concatenate(keys), np.concatenate(labels))
    for name in NAMES:
        (out / name).mkdir()
    begin = 0
    for number, some in enumerate(keys):
        made = pd.read_parquet(out / f"{number}.waiting.parquet")
        made = made.iloc[kept[(kept >= begin) & (kept < begin + len(some))] - begin]
        begin += len(some)
        for place, name in enumerate(NAMES):
            one = made[made["split"] == place].drop(columns=["key", "split"])
            one.to_parquet(out / name / f"{number}.parquet", compression="zstd")
    return {"rows": rows, "used": len(kept)}


def rows_of_a_file() -> int | None:
    """Rows that pandas reads of a file; None for all."""
    return int(os.environ.get("LWC_BENCH_NROWS") or 0) or None


def leg_datasets(files: list[str], out: Path, workers: int) -> dict[str, Any]:
    """The same cleaning, exact de-duplication, labels, split by user and Parquet files."""
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    import datasets
    import numpy as np

    from lwc.data.splits import NAMES

    found = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    rows = len(found)
    found = found.map(prepared(), batched=True, num_proc=workers, remove_columns=found.column_names)
    table = found.select_columns(["key", "label", "split"]).with_format("numpy")[:]
    kept = distinct(table["key"], table["label"])
    split = np.asarray(table["split"])
    for number, name in enumerate(NAMES):
        part = found.select(kept[split[kept] == number]).remove_columns(["key", "split"])
        part.to_parquet(str(out / f"{name}.parquet"))
    return {"rows": rows, "used": len(kept)}


LEGS: dict[str, Callable[[list[str], Path, int], dict[str, Any]]] = {
    "lwc": leg_lwc, "pandas": leg_pandas, "pandas_same": leg_pandas_same, "datasets": leg_datasets,
}  # fmt: skip


def cpu_seconds() -> float:
    """Processor time of all processes that were waited for, and of those they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tree_bytes(pid: int) -> float:
    """Proportional set size of a process and all below it."""
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ProcessLookupError):
            continue  # it ended between two looks
    return total


def disk_bytes(folder: Path) -> int:
    """Bytes of all files of a folder that is being written."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:
                continue  # it was renamed between two looks
    return total


def measured(name: str, files: list[Path], workers: int, python: str) -> dict[str, Any]:
    """One leg in a process of its own: rows/s, peak memory, peak disk."""
    from lwc.core.children import ProcessGroup  # not on top: a leg may run in a Python without lwc

    with (
        tempfile.TemporaryDirectory(prefix="lwc-ingest-", dir=files[0].parent) as folder,
        ProcessGroup([Path(folder)]) as group,
    ):
        command = [python, __file__, "--leg", name, "--workers", str(workers), "--out", folder, *map(str, files)]
        start, spent = time.monotonic(), cpu_seconds()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=group.id)
        memory = disk = 0.0
        while process.poll() is None:
            memory = max(memory, tree_bytes(process.pid))
            disk = max(disk, disk_bytes(Path(folder)))
            time.sleep(0.5)
        assert process.stdout is not None
        answer = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"{name} ended with {process.returncode}")
        seconds = time.monotonic() - start
        found: dict[str, Any] = json.loads(answer.splitlines()[-1])
        found.update(leg=name, seconds=round(seconds, 1), rows_per_second=round(found["rows"] / seconds),
                     cpu_us_per_row=round(1e6 * (cpu_seconds() - spent) / found["rows"], 1),
                     peak_memory_mb=round(memory / 1e6), peak_disk_mb=round(disk / 1e6))  # fmt: skip
        print(json.dumps(found), flush=True)
        return found


def damaged(count: int) -> None:
    """Randomly damaged files: no crash, and rows + quarantine = lines present."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
    from damage import damage, packed, present, review_file

    from lwc.core.errors import DataError
    from lwc.data.ingest.blocks import blocks
    from lwc.data.ingest.parse import pieces
    from lwc.data.source import inputs_of
    from lwc.data.stream import Cut, chunks
    from lwc.recipe import McAuleyFile

    rows = bad = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(count):
            source = random.Random(seed)
            content = review_file(source, source.randint(1, 40))
            zipped = source.random() < 0.5
            path = Path(folder) / ("r.json.gz" if zipped else "r.json")
            path.write_bytes(damage(source, packed(source, content) if zipped else content))
            given = McAuleyFile(kind="mcauley", paths=(str(path),))
            try:
                found = [one for block in blocks(0, inputs_of(given)[0], 1000) for one in pieces(block, None, set())]
            except DataError:
                refused += 1  # named .gz and no gzip any more, or UTF-16: one error that names the file
                continue
            parts = list(chunks(path))
            whole = b"".join(part for part in parts if isinstance(part, bytes))
            cuts = sum(isinstance(part, Cut) for part in parts)
            whole = whole[: whole.rfind(b"\n") + 1] if cuts else whole
            good, lost = sum(map(len, found)), sum(len(one.bad) for one in found)
            if good + lost != present(whole) + cuts:
                raise SystemExit(f"seed {seed}: {good} + {lost} read, {present(whole)} + {cuts} present")
            rows, bad = rows + good, bad + lost
    print(json.dumps({"damaged": count, "rows": rows, "quarantined": bad, "refused_files": refused, "lost": 0}))


def main() -> None:
    """Run the legs, print the ratios; exit 3 where one falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder for the rows (0.3 GB a million)")
    parser.add_argument("--millions", type=float, nargs="+", default=[0.5, 2, 4])
    parser.add_argument("--compared", type=float, default=2, help="millions of rows that the others read too")
    parser.add_argument("--pandas-rows", type=int, help="rows that pandas reads, of the first file (default: all)")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--hf-python", help="a Python with datasets, where this one has none")
    parser.add_argument("--damaged", type=int, help="read so many damaged files instead")
    parser.add_argument("--leg", choices=LEGS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.damaged:
        damaged(args.damaged)
        return
    if args.leg:
        print(json.dumps(LEGS[args.leg](args.files, args.out, args.workers)))
        return
    files = corpus(args.corpus, round(1e6 * max([*args.millions, args.compared])))

    def first(millions: float) -> list[Path]:
        return files[: round(1e6 * millions) // A_FILE]

    python = str(Path(sys.executable))
    mine = {millions: measured("lwc", first(millions), args.workers, python) for millions in args.millions}
    base = mine.get(args.compared) or measured("lwc", first(args.compared), args.workers, python)
    # "2x pandas" can be read as the parse alone or as the same work: both are held to it.
    others = {"datasets": (args.hf_python or python, 1.2), "pandas": (python, 2.0), "pandas_same": (python, 2.0)}
    ratios = {}
    for name, (which, wanted) in others.items():
        given = first(args.compared)
        if name != "datasets" and args.pandas_rows:  # its rows/s do not depend on how many there are
            os.environ["LWC_BENCH_NROWS"], given = str(args.pandas_rows), given[:1]
        other = measured(name, given, args.workers, which)
        ratios[name] = {"rows": other["rows"], "wanted": wanted,
                        "ratio": base["rows_per_second"] / other["rows_per_second"],
                        "ratio_of_cpu": other["cpu_us_per_row"] / base["cpu_us_per_row"]}  # fmt: skip
    peaks = [one["peak_memory_mb"] for one in mine.values()]
    spread = (max(peaks) - min(peaks)) / (max(peaks) + min(peaks))  # ± about the middle
    largest = mine[max(mine)]
    scale = ELECTRONICS / largest["rows"]
    result = {
        "ratios": ratios,
        "memory": {"peaks_mb": peaks, "spread": spread, "limit_mb": LIMIT / 1e6},
        "projection_to_electronics": {
            "rows": ELECTRONICS, "minutes": round(largest["seconds"] * scale / 60, 1),
            "disk_gb_while_running": round(largest["peak_disk_mb"] * scale / 1e3, 1),
            "disk_gb_after": round(largest["parquet_bytes"] * scale / 1e9, 1),
            "memory_mb": round(max(peaks) + (ELECTRONICS - largest["rows"]) * 2 / 1e6),
        },
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    short = any(one["ratio"] < one["wanted"] for one in ratios.values())
    if short or max(peaks) * 1e6 > LIMIT or spread > 0.1:
        sys.exit(3)


if __name__ == "__main__":
    main()
