"""Sections about data."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from lwc.recipe.base import Fraction, Positive, Row, Section, Table


class Columns(Section):
    """Column names of a table; unset columns do not exist in the source."""

    body: str = "text"
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
                "a".encode(value)
            except LookupError as error:
                raise ValueError(f"no such encoding: {value}; Python's names are used, such as cp1252") from error
        return value


class DataSource(Row):
    """Settings of a data source; ``implementation`` names its `lwc.data.source.Source`."""

    kind: str

    @property
    def title_missing(self) -> str | None:
        """What to do about rows that have no title; None if they have one."""
        columns: Columns | None = getattr(self, "columns", None)
        return None if columns is None or columns.title else "map data.source.columns.title, or leave it out"


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
    paths: tuple[str, ...] = Field(min_length=1)


class TableFile(DataSource):
    """CSV, TSV, JSON, Parquet or Arrow files (by suffix, may be compressed) with a column map, read as one.

    A path may be a folder or a pattern.
    """

    implementation: ClassVar[str] = "lwc.data.sources.table:SOURCE"
    kind: Literal["table"]
    paths: tuple[str, ...] = Field(min_length=1)
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


class Labels(Section):
    """How labels are made: star schemes (binary: >=4 vs <=2, 3 dropped), the label column as it is, or none."""

    scheme: Literal["binary", "three_class", "five_class", "column", "none"] = "binary"
    # Order of the class names; needed only to fix ids of a label column.
    names: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _names_fit(self) -> Labels:
        for name in self.names or ():
            if "\n" in name or "\r" in name:
                raise ValueError(f"names: {name!r} contains a line break: the served labels are lines of a file")
        if len(set(self.names or ())) < len(self.names or ()):
            raise ValueError("names: a label is listed twice")
        return self

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
    limit: Positive | None = Field(default=None, description="random subsample of rows, after cleaning")
    calibration: Positive = Field(default=256, description="rows of train that scores are computed on")
    ingest: Ingest | None = Field(default=None, description="read the source as a stream, through shards on disk")

    @model_validator(mode="after")
    def _titles_exist(self) -> Data:
        if "title" in self.text_fields and (fix := self.source.title_missing) is not None:
            raise ValueError(f"text_fields names title, which the source does not have: {fix}")
        return self
