"""Item vectors from text: cold items get one, held-out reviews are never read, the checkpoint stays stock."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from histories import recipe
from transformers import AutoModelForCausalLM

from lwc.core.errors import DataError
from lwc.core.store import read_json
from lwc.pipeline.run import run
from lwc.recipe import ItemText, TableFile
from lwc.tasks.next_item.histories import Catalogue, Event
from lwc.tasks.next_item.item_text import START_STD, cold_vectors, item_texts, text_vectors
from lwc.tasks.next_item.splits import load_questions

WORDS = {
    "tea": "leaf kettle cup brew green steep pot",
    "bike": "wheel chain pedal saddle brake tyre spoke",
    "ink": "printer cartridge black page refill toner laser",
}
WARM, COLD = 12, 2


def text(kind: str, draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS[kind].split(), k=12))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Users buy things of one kind only; two items of each kind are sold for the first time when nobody looks on."""
    draw = random.Random(1)
    kinds = list(WORDS)
    with (tmp_path / "shop.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "text"])
        for user in range(150):
            kind = kinds[user % 3]
            warm = draw.sample(range(WARM), 6)
            for step, number in enumerate(warm):
                writer.writerow([f"u{user}", f"{kind}{number}", 1000 + user + step * 1000, text(kind, draw)])
            if user < 30:
                new = f"{kind}-new{draw.randrange(COLD)}"
                writer.writerow([f"u{user}", new, 90_000 + user, f"secret {text(kind, draw)}"])
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "name"])
        for kind in kinds:
            writer.writerows([f"{kind}{number}", text(kind, draw)] for number in range(WARM))
            writer.writerows([f"{kind}-new{number}", text(kind, draw)] for number in range(COLD))
    return tmp_path


def metadata(shop: Path) -> dict[str, object]:
    return {"kind": "table", "paths": [str(shop / "items.csv")], "columns": {"body": "name", "item": "id"}}


def test_cold_items_are_found_by_their_text_through_the_whole_line(shop: Path) -> None:
    pytest.importorskip("implicit")
    task = {
        "kind": "next_item", "split": "time", "top_k": 20, "text": {"metadata": metadata(shop)},
    }  # fmt: skip
    split = {"by": "time", "validation": 0.1, "test": 0.03}
    made = recipe(shop / "shop.csv", task=task)
    made = made.model_copy(update={"data": made.data.model_copy(update={"split": type(made.data.split)(**split)})})
    results = run(made, shop / "runs", lambda *_: None, until="evaluate")
    quality = read_json(results["data"].path / "quality.json")
    assert quality["items_not_in_train"] == 3 * COLD
    catalogue = Catalogue.read(results["recover"].path / "model" / "catalogue.json")
    assert set(catalogue.items[catalogue.trained :]) == {f"{kind}-new{n}" for kind in WORDS for n in range(COLD)}
    assert set(catalogue.counts[catalogue.trained :]) == {0}
    test = load_questions(results["data"].path, "test")
    assert (test.targets >= catalogue.trained).sum() > 15
    found = read_json(results["evaluate"].path / "evaluation.json")
    # Two new items of the right kind among about 8 left of it and 42 in all: chance is 10 in 36.
    assert found["cold"]["items"] == 3 * COLD
    assert found["cold"]["hr_at_10_base"] > 0.8
    assert found["cold"]["hr_at_10_compressed"] > 0.8
    model = AutoModelForCausalLM.from_pretrained(results["recover"].path / "model")
    assert model.config.vocab_size == len(catalogue) + 1


def test_only_train_reviews_and_metadata_are_read(shop: Path) -> None:
    train = {"u": [Event("u", "tea1", 1, "a review"), Event("u", "tea2", 2)]}
    assert item_texts(train, None, lambda _: None) == {"tea1": "a review"}
    found = item_texts(train, TableFile.model_validate(metadata(shop)), lambda _: None)
    assert found["tea1"].endswith("\na review")
    assert len(found) == 3 * (WARM + COLD)
    assert not any("secret" in one for one in found.values())


def test_text_vectors_start_as_small_as_the_model_does_and_are_equal_for_equal_seeds() -> None:
    draw = random.Random(2)
    texts = [text(kind, draw) for kind in WORDS for _ in range(20)] + [""]
    vectors = text_vectors(texts, 8, 3)
    assert vectors.shape == (61, 8)
    assert vectors.std(axis=0) == pytest.approx(np.full(8, START_STD), rel=1e-4)
    np.testing.assert_array_equal(vectors, text_vectors(texts, 8, 3))
    unit = vectors[:60] / np.linalg.norm(vectors[:60], axis=1, keepdims=True)
    near = (unit @ unit.T).reshape(3, 20, 3, 20).mean(axis=(1, 3))
    assert all(near[kind, kind] > max(near[kind, other] for other in range(3) if other != kind) for kind in range(3))
    with pytest.raises(DataError, match="too few for vectors of 64"):
        text_vectors(texts, 64, 3)
    with pytest.raises(DataError, match="cannot be used"):
        text_vectors(["", ""], 4, 3)


def test_cold_vectors_follow_a_linear_map_that_the_warm_ones_learnt() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(0, START_STD, (300, 6))
    mapped = vectors / START_STD @ draw.normal(0, 1, (6, 6)) + 0.5
    found = cold_vectors(vectors, mapped[:250])
    np.testing.assert_allclose(found, mapped[250:], atol=0.02)


def test_text_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match="needs metadata"):
        ItemText(reviews=False)
    with pytest.raises(ValueError, match=r"columns\.item"):
        ItemText(metadata=TableFile(kind="table", paths=("x.csv",)))
