"""Real reviews: the embedded sample, and files in ``LWC_DATA_DIR`` where a machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwc.core.errors import DataError, MissingDependency
from lwc.data.prepare import prepare
from lwc.data.rows import Bad
from lwc.data.sources import amazon_sample, mcauley, table
from lwc.recipe import Columns, Data


@pytest.fixture(scope="session")
def sample() -> Path:
    try:
        return amazon_sample.fetch(lambda _: None)
    except MissingDependency as error:
        pytest.skip(f"amazon-sample is not cached and no route to it: {error.message}")


def test_the_sample(sample: Path, tmp_path: Path) -> None:
    data = Data.model_validate({"labels": {"scheme": "column"}})
    quality = prepare(data, 17, tmp_path)
    assert quality["rows_read"] == 5000
    assert quality["rows_used"] == 4971
    assert quality["label_names"] == ["great", "other"]
    assert quality["duplicates"]["exact"] >= 20
    assert quality["split_by"] == "random"
    assert all(pair["texts"] == 0 for pair in quality["leaks"].values())
    assert 0.6 < quality["splits"]["test"]["majority_share"] < 0.7


def test_the_sample_has_no_stars(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no star ratings"):
        prepare(Data(), 17, tmp_path)


def _file(folder: Path, name: str) -> Path:
    found = folder / name
    if not found.is_file():
        pytest.skip(f"{name} is not in LWC_DATA_DIR")
    return found


@pytest.mark.parametrize(
    ("name", "rows", "bad"),
    [
        ("2014-5core-cellphones-truncated-json/Cell_Phones_and_Accessories_5.json.gz", 4776, 1),
        ("2018-5core-jsonl-small-categories/Gift_Cards_5.json.gz", 2972, 0),
        ("2014-jsonl-category-samples/Patio_small.json.gz", 1000, 0),
        ("2023-software-jsonl/reviews.jsonl.gz", 1000, 0),
    ],
)
def test_published_row_counts_of_json_files(reviews_dir: Path, name: str, rows: int, bad: int) -> None:
    found = list(mcauley.read_file(_file(reviews_dir, name)))
    refused = sum(isinstance(item, Bad) for item in found)
    assert (len(found) - refused, refused) == (rows, bad)


MCAULEY = Columns(body="reviewText", rating="overall", user="reviewerID", time="unixReviewTime")


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("2014-5core-musical-instruments-csv/Musical_instruments_reviews.csv.gz", MCAULEY, 10261),
        ("2018-electronics-software-sample-csv/electronics.csv.gz", MCAULEY, 3050),
        ("2018-5core-office-products-sample-csv/small_sample.csv.gz", MCAULEY, 9000),
        ("2014-full-electronics-cellphones-csv/Electronics.csv.gz", MCAULEY, 5000),
        ("amazon-in-earphones-csv/AllProductReviews.csv.gz", Columns(body="ReviewBody", rating="ReviewStar"), 14337),
        ("amazon-alexa-tsv/amazon_alexa.tsv.gz", Columns(body="verified_reviews", rating="rating", time="date"), 3150),
    ],
)
def test_published_row_counts_of_tables(reviews_dir: Path, name: str, columns: Columns, rows: int) -> None:
    found = list(table.read_file(_file(reviews_dir, name), columns))
    assert (len(found), [item for item in found if isinstance(item, Bad)]) == (rows, [])
