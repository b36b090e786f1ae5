"""Sections about data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lwc.core.spelling import number_name, plain
from lwc.recipe.base import Fraction, Positive, Row, Section, Table


class Columns(Section):
    """Column names of a table; unset columns do not exist in the source."""

    body: str | None = "text"
    title: str | None = None
    rating: str | None = None
    label: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None


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
    paths: Paths


class TableFile(DataSource):
    """CSV, TSV, JSON, Parquet or Arrow files (by suffix, may be compressed) with a column map, read as one.

    A path may be a folder or a pattern.
    """

    implementation: ClassVar[str] = "lwc.data.sources.table:SOURCE"
    kind: Literal["table"]
    paths: Paths
    columns: Columns = Columns()
    format: Format = Format()

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)
        if self.format == Format():  # a recipe that does not need the section keeps its cache key
            found.pop("format", None)
        return found


class HubDataset(DataSource):
    """A Hugging Face dataset id, or a local folder in that layout."""

    implementation: ClassVar[str] = "lwc.data.sources.hub:SOURCE"
    kind: Literal["hub"]
    id: str
    config: str | None = None
    split: str = "train"
    columns: Columns = Columns()


class Amazon2023(DataSource):
    """An official Amazon Reviews 2023 category file, size and SHA-256 pinned."""

    implementation: ClassVar[str] = "lwc.data.sources.amazon_2023:SOURCE"
    kind: Literal["amazon-2023"]
    category: str


SOURCES = Table("kind", AmazonSample, McAuleyFile, TableFile, HubDataset, Amazon2023, default=AmazonSample)
"""Every data source. A new one is a module with the reader and a settings class here that names it."""

AnySource = Annotated[DataSource, SOURCES]


STAR_NAMES = {
    "binary": ("negative", "positive"),
    "three_class": ("negative", "neutral", "positive"),
    "five_class": ("1", "2", "3", "4", "5"),
}
NO_LABEL = "none"


def _label(value: object) -> object:
    """Accept a number as a label, by its one name; true and false have several spellings."""
    if isinstance(value, bool):
        raise ValueError(f'a label is text: write it in quotes, as the data spell it ("{str(value).lower()}")')
    if isinstance(value, int | float):
        return number_name(value)
    return plain(value) if isinstance(value, str) else value


LabelName = Annotated[str, BeforeValidator(_label), Field(min_length=1)]


class Labels(Section):
    """How labels are made: star schemes (binary: >=4 vs <=2, the others dropped), a label column, or none."""

    scheme: Literal["binary", "three_class", "five_class", "column", "none"] = "binary"
    # Order of the class names; needed only to fix ids of a label column.
    names: tuple[LabelName, ...] | None = None
    map: dict[LabelName, LabelName] = Field(
        default={}, description="class names by value of the label column; other values are their own names"
    )

    @field_validator("map", mode="before")
    @classmethod
    def _one_name_a_value(cls, value: Any) -> Any:
        keys = [str(_label(key)) for key in value] if isinstance(value, dict) else []
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} is given twice: a whole number with and without decimals is one value")
        return value

    @model_validator(mode="after")
    def _of_a_column(self) -> Labels:
        names = self.names or ()
        if self.scheme != "column" and (self.names is not None or self.map):
            given = "names" if self.names is not None else "map"
            raise ValueError(f"{given} is for a label column, and scheme is {self.scheme}: leave it out")
        if len(set(names)) < len(names):
            raise ValueError(f"names lists {next(one for one in names if names.count(one) > 1)!r} twice")
        for name in (*names, *self.map.values()):
            if "\n" in name or "\r" in name:
                raise ValueError(f"{name!r} contains a line break: the served labels are lines of a file")
        strange = sorted(set(self.map.values()) - set(names)) if names else []
        if strange:
            raise ValueError(f"map leads to {strange[0]!r}, which names does not list")
        return self

    def name(self, value: str) -> str:
        """The class name of a value of the label column."""
        value = plain(value)
        return self.map.get(value, value)

    def known(self) -> tuple[str, ...] | None:
        """The class names; None if only the data know them."""
        return self.names if self.scheme == "column" else STAR_NAMES.get(self.scheme, (NO_LABEL,))


class Split(Section):
    """``auto`` is user-disjoint where users exist (a row without one counts as a user of its own), else temporal, else
    random stratified."""

    by: Literal["auto", "user", "time", "random"] = "auto"
    validation: Fraction = 0.1
    test: Fraction = 0.2

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


class Data(Section):
    source: AnySource = AmazonSample(kind="amazon-sample")
    text_fields: tuple[Literal["title", "body"], ...] = Field(default=("body",), min_length=1)
    labels: Labels = Labels()
    split: Split = Split()
    near_duplicate_threshold: Annotated[float, Field(ge=0.5, le=1.0)] = 0.9
    max_bad_rows: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    limit: Positive | None = Field(
        default=None,
        description="random subsample of rows, after cleaning; of whole histories if items are recommended",
    )
    calibration: Positive = Field(
        default=256,
        description="rows of train that scores are computed on: classes keep their shares, with a row each at least",
    )
    ingest: Ingest | None = Field(default=None, description="read the source as a stream, through shards on disk")

    @model_validator(mode="after")
    def _titles_exist(self) -> Data:
        if "title" in self.text_fields and (fix := self.source.title_missing) is not None:
            raise ValueError(f"text_fields names title, which the source does not have: {fix}")
        return self

    @property
    def columns(self) -> Columns:
        """The column map of the source; empty where it has none."""
        found: Columns | None = getattr(self.source, "columns", None)
        return Columns(body=None) if found is None else found

    @property
    def label_field(self) -> Literal["rating", "label"] | None:
        """The field of a row that labels are made from."""
        return {"column": "label", "none": None}.get(self.labels.scheme, "rating")

    def reading(self) -> DataSource:
        """The source with only the columns that texts and their labels need."""
        label = self.label_field
        # Without ratings, a label column is what an error advises.
        labels = {"rating", "label"} if label == "rating" and self.columns.rating is None else {label}
        return self.source.reading({*self.text_fields, *(one for one in labels if one), "user", "item", "time"})

    def check_texts(self) -> None:
        """Raise `ValueError` where a text field has no column, or the column of the label."""
        if not hasattr(self.source, "columns"):
            return
        label = self.label_field
        answer = getattr(self.columns, label) if label is not None else None
        for field in self.text_fields:
            column = getattr(self.columns, field)
            if column is None:
                raise ValueError(
                    f"data.text_fields names {field}, but data.source.columns.{field} is null:"
                    f" map it, or leave {field} out"
                )
            if column == answer:
                raise ValueError(
                    f"data.source.columns: {field} and {label} are both {column!r}, so the model would read the answer:"
                    f" map {field} to another column, or leave {field} out of data.text_fields"
                )
