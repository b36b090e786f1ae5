"""The data stage: rows to histories, split and written down, with an account of what was left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.core.store import write_json
from lwc.data.source import provenance
from lwc.recipe import NextItem, Recipe
from lwc.tasks.next_item.histories import alike, describe, histories, limited, read_events, shared_times
from lwc.tasks.next_item.item_text import item_texts, write_texts
from lwc.tasks.next_item.splits import divide, write_questions, write_train


def prepare(recipe: Recipe, task: NextItem, out: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Write ``train``, ``validation`` and ``test`` ``.parquet``, ``catalogue.json``, ``quality.json`` and the rest.

    Raises:
        DataError: rows without user, item or time, or too few to split.
    """
    data = recipe.data
    with_reviews = task.text is not None and task.text.reviews
    events, account = read_events(data, out / "quarantine.jsonl", progress, texts=with_reviews)
    every, left_out = histories(events, task.min_history)
    found = limited(every, data.limit, recipe.seed)
    used = sum(len(mine) for mine in found.values())
    divided, catalogue = divide(found, task, data.split)
    if task.text is not None:
        texts = item_texts(divided.train, task.text.metadata, progress)
        catalogue = catalogue.with_cold(texts)
        write_texts([texts.get(item, "") for item in catalogue.items], out / "texts.parquet")
    catalogue.write(out / "catalogue.json")
    write_train(divided.train, out / "train.parquet")
    known, trained = catalogue.numbers(), set(catalogue.items[: catalogue.trained])
    splits: dict[str, Any] = {"train": describe(list(divided.train.values()))}
    for name, questions in (("validation", divided.validation), ("test", divided.test)):
        write_questions(questions, out / f"{name}.parquet")
        splits[name] = {
            **describe([question.history for question in questions]),
            "targets_not_in_train": sum(question.target not in trained for question in questions),
            "targets_not_in_catalogue": sum(question.target not in known for question in questions),
        }
    write_json(out / "source.json", provenance(data.sources, data.text_fields if with_reviews else ()))
    same, example = alike(catalogue.items)
    quality = {
        "source": data.main.kind,
        **account,
        **left_out,
        "events_beyond_limit": sum(len(mine) for mine in every.values()) - used,
        "events_used": used,
        "events_at_a_shared_time": shared_times(found),
        "users": len(found),
        "items": len(catalogue),
        "items_alike": same,
        "items_alike_example": example,
        "items_not_in_train": len(catalogue) - catalogue.trained,
        "catalogue_sha256": catalogue.digest(),
        "split_by": task.split,
        "splits": splits,
    }
    write_json(out / "quality.json", quality)
    return quality
