"""Sections about data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_serializer, model_validator
from pydantic import SerializerFunctionWrapHandler as Serialize

from lwc.recipe.base import Fraction, Lean, Positive, Row, Section, Table
from lwc.recipe.labels import LabelName, Labels


class Columns(Lean):
    """Column names of a table; unset columns do not exist in the source."""

    added: ClassVar[tuple[str, ...]] = ("split",)
    body: str | None = Field(default="text", description="the text")
    title: str | None = Field(default=None, description="a title or headline")
    rating: str | None = Field(default=None, description="stars, 1 to 5")
    label: str | None = Field(default=None, description="the class or number")
    user: str | None = Field(default=None, description="who wrote the row; splits are disjoint by user")
    item: str | None = Field(default=None, description="what the row is about")
    time: str | None = Field(default=None, description="date or seconds since 1970")
    split: str | None = Field(
        default=None, description="column that says of each row whether it is of train, validation or test"
    )


class Format(Section):
    """How a text table is written; what is left out is decided from the content."""

    delimiter: str | None = Field(default=None, description='one character between fields, or "tab"')
    quoting: Literal["standard", "backslash", "none"] | None = Field(
        default=None, description='a quote in a quoted field: "" (standard) or \\" (backslash); none: quotes are text'
    )
    header: bool | None = Field(default=None, description="false: there is none, and columns are '1', '2', ...")
    encoding: str | None = Field(default=None, description="such as cp1252; also of JSON lines")
    dates: Literal["day_first", "month_first"] | None = Field(
        default=None, description="order of dates such as 03/04/2023; of any file format"
    )

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        value = "\t" if value in ("tab", "\\t") else value
        if value is not None and (len(value) != 1 or value in '"\r\n\0'):
            raise ValueError(f"a delimiter is one character and no quote or line end, not {value!r}")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                b"a".decode(value, "replace")
            except (LookupError, UnicodeError) as error:
                raise ValueError(f"no such encoding: {value}; Python's names are used, such as cp1252") from error
        return value


def _in_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_in_list), Field(min_length=1)]


class DataSource(Row):
    """Settings of a data source; ``implementation`` names its `lwc.data.source.Source`."""

    kind: str

    @property
    def title_missing(self) -> str | None:
        """What to do about rows that have no title; None if they have one."""
        columns: Columns | None = getattr(self, "columns", None)
        return None if columns is None or columns.title else "map data.source.columns.title, or leave it out"

    def reading(self, fields: Collection[str]) -> Self:
        """The same source, with the columns of these fields of a row alone: no other column can spoil a row."""
        columns: Columns | None = getattr(self, "columns", None)
        if columns is None:
            return self
        kept = {name: column if name in fields else None for name, column in columns}
        return self.model_copy(update={"columns": Columns(**kept)})


class AmazonSample(DataSource):
    """The embedded default: 5,000 Amazon Fine Food reviews from Debian's r-cran-modeldata."""

    implementation: ClassVar[str] = "lwc.data.sources.amazon_sample:SOURCE"
    kind: Literal["amazon-sample"]

    @property
    def title_missing(self) -> str | None:
        return "leave it out"


class McAuleyFile(DataSource):
    """McAuley 2014 / 2018 / 2023 JSON lines, plain or gzip; relative paths look in LWC_DATA_DIR too."""

    implementation: ClassVar[str] = "lwc.data.sources.mcauley:SOURCE"
    kind: Literal["mcauley"]
    paths: Paths = Field(description="files, folders or patterns")


class TableFile(DataSource, Lean):
    """CSV, TSV, JSON, Parquet or Arrow files (by suffix, may be compressed) with a column map, read as one.

    A path may be a folder or a pattern.
    """

    implementation: ClassVar[str] = "lwc.data.sources.table:SOURCE"
    added: ClassVar[tuple[str, ...]] = ("format",)
    kind: Literal["table"]
    paths: Paths = Field(description="files, folders or patterns")
    columns: Columns = Field(default=Columns(), description="which column is what")
    format: Format = Field(default=Format(), description="how text tables are written")


class HubDataset(DataSource):
    """A Hugging Face dataset id, or a local folder in that layout."""

    implementation: ClassVar[str] = "lwc.data.sources.hub:SOURCE"
    kind: Literal["hub"]
    id: str = Field(description="dataset id, or a local folder")
    config: str | None = Field(default=None, description="configuration of the dataset")
    split: str = Field(default="train", description="split to read")
    columns: Columns = Field(default=Columns(), description="which column is what")


class Amazon2023(DataSource):
    """An official Amazon Reviews 2023 category file, size and SHA-256 pinned."""

    implementation: ClassVar[str] = "lwc.data.sources.amazon_2023:SOURCE"
    kind: Literal["amazon-2023"]
    category: str = Field(description="category as in the file's name, e.g. All_Beauty")


SOURCES = Table("kind", AmazonSample, McAuleyFile, TableFile, HubDataset, Amazon2023, default=AmazonSample)
"""Every data source. A new one is a module with the reader and a settings class here that names it."""

AnySource = Annotated[DataSource, SOURCES]


SplitName = Literal["train", "validation", "test"]


class Split(Lean):
    """The shares of rows that are drawn for validation and test, if the data do not say which rows these are.

    ``auto`` is user-disjoint where users exist (a row without one counts as a user of its own), else temporal, else
    random stratified.
    """

    added: ClassVar[tuple[str, ...]] = ("map",)
    by: Literal["auto", "user", "time", "random"] = Field(default="auto", description="how rows are divided")
    validation: Fraction = Field(default=0.1, description="share of validation rows")
    test: Fraction = Field(default=0.2, description="share of test rows")
    map: dict[LabelName, SplitName | Literal["none"]] = Field(
        default={},
        description="what the values of a split column mean, if they are not train, validation (valid, val, dev) or"
        " test; none: leave these rows out",
    )

    @model_validator(mode="after")
    def _leaves_train(self) -> Split:
        if self.validation + self.test >= 0.95:
            raise ValueError("validation + test must leave at least 5% for training")
        return self


class Ingest(Section):
    """How a large source is read as a stream into shards on disk (`lwc data ingest`)."""

    shard_mib: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="raw source per shard in MiB; limits the memory of a worker"
    )
    files_at_once: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="number of files to read at once")
    metadata: tuple[str, ...] = Field(
        default=(), description="item metadata (JSON lines); adds title, brand and category to each row by item"
    )


class Data(Lean):
    added: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    source: AnySource = Field(default=AmazonSample(kind="amazon-sample"), description="where the rows are read from")
    train: AnySource | None = Field(default=None, description="the train rows, instead of source")
    validation: AnySource | None = Field(
        default=None,
        description="your validation rows; without kind, a source like that of train with these settings changed",
    )
    test: AnySource | None = Field(
        default=None,
        description="your test rows, which stay whole; without kind, a source like that of train with these settings"
        " changed",
    )
    text_fields: tuple[Literal["title", "body"], ...] = Field(
        default=("body",), min_length=1, description="what the model reads, joined by a line break"
    )
    labels: Labels = Field(default=Labels(), description="how labels are made")
    split: Split = Field(default=Split(), description="how rows are divided")
    near_duplicate_threshold: Annotated[float, Field(ge=0.5, le=1.0)] = Field(
        default=0.9, description="Jaccard similarity of word triples from which texts count as the same"
    )
    max_bad_rows: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.05, description="largest share of rows that may be quarantined"
    )
    limit: Positive | None = Field(
        default=None,
        description="random subsample of rows, after cleaning; of whole histories if items are recommended; rows of"
        " validation and test that the data name stay",
    )
    calibration: Positive = Field(
        default=256,
        description="rows of train that scores are computed on: classes keep their shares, with a row each at least",
    )
    ingest: Ingest | None = Field(default=None, description="read the source as a stream, through shards on disk")

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: Serialize) -> dict[str, Any]:
        found = self._lean(serialize)
        if self.train is not None:  # which is read instead
            found.pop("source", None)
        return found

    @model_validator(mode="before")
    @classmethod
    def _like_train(cls, value: Any) -> Any:
        first = (value.get("train") or value.get("source")) if isinstance(value, dict) else None
        if not isinstance(first, dict):
            return value
        given = {name: value.get(name) for name in ("validation", "test")}
        like = {name: one for name, one in given.items() if isinstance(one, dict) and "kind" not in one}
        return {**value, **{name: {**first, **one} for name, one in like.items()}}

    @model_validator(mode="after")
    def _one_way_to_split(self) -> Data:
        given = [name for name in ("validation", "test") if getattr(self, name) is not None]
        column = next((found for one in self.sources.values() if (found := columns_of(one).split) is not None), None)
        if self.train is not None and "source" in self.model_fields_set:
            raise ValueError("source and train are both given: train is read instead of source, leave one out")
        if given and self.train is None and "source" not in self.model_fields_set:
            raise ValueError(f"{given[0]} is given, and no train: name the rows to train on, data.train")
        if given and column is not None:
            raise ValueError(f"{given[0]} is given, and columns.split names {column!r}: leave one out")
        if self.split.map and column is None:
            raise ValueError("split.map is for a split column, and columns.split names none: leave it out")
        if self.ingest is not None and (given or column is not None):
            what = f"data.{given[0]}" if given else "columns.split"
            raise ValueError(
                f"data.ingest with {what}: lwc splits a stream itself; leave ingest out to read the rows into memory"
            )
        return self

    @model_validator(mode="after")
    def _titles_exist(self) -> Data:
        for source in self.sources.values():
            if "title" in self.text_fields and (fix := source.title_missing) is not None:
                raise ValueError(f"text_fields names title, which the source does not have: {fix}")
        return self

    @property
    def main(self) -> DataSource:
        """The train rows; all rows if the recipe names no others."""
        return self.source if self.train is None else self.train

    @property
    def sources(self) -> dict[SplitName, DataSource]:
        """The sources by the split that they are; ``train`` has all rows if it is the only one."""
        given: dict[SplitName, DataSource | None] = {
            "train": self.main,
            "validation": self.validation,
            "test": self.test,
        }
        return {name: source for name, source in given.items() if source is not None}

    @property
    def columns(self) -> Columns:
        """The column map of the main source; empty where it has none."""
        return columns_of(self.main)

    @property
    def label_field(self) -> Literal["rating", "label"] | None:
        """The field of a row that labels are made from."""
        return {"column": "label", "none": None}.get(self.labels.scheme, "rating")

    def reading(self, source: DataSource | None = None) -> DataSource:
        """A source, by default the main one, with only the columns that texts, their labels and the split need."""
        label, source = self.label_field, source or self.main
        # Without ratings, a label column is what an error advises.
        labels = {"rating", "label"} if label == "rating" and columns_of(source).rating is None else {label}
        fields = {*self.text_fields, *(one for one in labels if one), "user", "item", "time", "split"}
        return source.reading(fields)

    def check_texts(self) -> None:
        """Raise `ValueError` where a text field has no column, or the column of the label."""
        for split, source in self.sources.items():
            if hasattr(source, "columns"):
                place = f"data.{'source' if split == 'train' and self.train is None else split}.columns"
                self._check_columns(columns_of(source), place)

    def _check_columns(self, columns: Columns, place: str) -> None:
        label = self.label_field
        answer = getattr(columns, label) if label is not None else None
        for field in self.text_fields:
            column = getattr(columns, field)
            if column is None:
                raise ValueError(
                    f"data.text_fields names {field}, but {place}.{field} is null: map it, or leave {field} out"
                )
            if column == answer:
                raise ValueError(
                    f"{place}: {field} and {label} are both {column!r}, so the model would read the answer:"
                    f" map {field} to another column, or leave {field} out of data.text_fields"
                )


def columns_of(source: DataSource) -> Columns:
    """The column map of a source; empty where it has none."""
    found: Columns | None = getattr(source, "columns", None)
    return Columns(body=None) if found is None else found
