"""What an importer yields and what the writer makes of it: the one shape that all formats share.

An importer finds the splits of its sources (`SplitSource`) and reads each as a stream of rows: a
`ImportedPair`, a line that is a TSV line already (`Untouched`), or a row that cannot become a pair
(`LeftOut`). Whatever is read is written or left out with a reason, so that the two counts add up to
the rows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from model.config.base import Name, Section

MAX_IMAGE_BYTES = 64_000_000
# Of a line that holds such an image in base64.
MAX_LINE_BYTES = MAX_IMAGE_BYTES * 4 // 3


class ImportOptions(Section):
    """Options that every kind understands."""

    split: Name | None = Field(
        None,
        description="Name of the one split that all sources become; "
        "by default it comes from their file names.",
    )
    clean_html: bool = Field(
        False, description="Whether tags and entities of HTML in captions become text."
    )
    assign: Literal["given", "product"] = Field(
        "given",
        description="Which pairs are train, valid and test: as the source has them, or by a hash "
        "of the product id, the same in every version.",
    )


class LeftOutReason(StrEnum):
    """Why a row of a source becomes no pair."""

    NO_CAPTION = "no_caption"
    NO_IMAGE = "no_image"
    MISSING_IMAGE = "missing_image"
    NO_IMAGE_IDS = "no_image_ids"
    OUTSIDE_IMAGES = "outside_images"
    UNREADABLE_IMAGE = "unreadable_image"
    TOO_LARGE = "too_large"
    BAD_BASE64 = "bad_base64"
    BAD_JSON = "bad_json"
    BAD_FIELD = "bad_field"
    BAD_ROW = "bad_row"
    BAD_UTF8 = "bad_utf8"
    NO_KEY = "no_key"
    DOTTED_KEY = "dotted_key"


class ImportedPair(NamedTuple):
    """A pair with its product: encoded image, and the further columns of the side table."""

    id: str
    caption: str
    image: bytes
    columns: Mapping[str, str]


class Untouched(NamedTuple):
    """The bytes of a TSV line without its newline, good or faulty.

    ``id`` is that of its product where it is known.
    """

    line: bytes
    id: str = ""


class LeftOut(NamedTuple):
    """A row that becomes no pair; ``name`` is what its source calls it."""

    reason: LeftOutReason
    name: str


SourceRow = ImportedPair | Untouched | LeftOut


@dataclass(frozen=True)
class SplitSource:
    """A split that can be imported; ``rows`` is None where they are not known before.

    ``advice`` says of a reason what the user may do where it leaves rows out.
    """

    split: str
    files: tuple[Path, ...]
    read: Callable[[], Iterator[SourceRow]]
    rows: int | None = None
    has_side_table: bool = True
    advice: Mapping[LeftOutReason, str] = field(default_factory=dict)


class LeftOutRows(NamedTuple):
    """How many rows one reason left out, and the names of the first."""

    rows: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class ImportedSplit:
    """What was read and written.

    ``tsv`` is None where no row became a pair, and then nothing was written. ``cleaned_captions``
    held a tab or a line break that became a space; ``dropped_columns`` found no place in the side
    table, which has a limit. ``advice`` is on the reasons that left rows out.
    """

    split: str
    sources: tuple[Path, ...]
    tsv: Path | None
    side_table: Path | None
    rows: int
    pairs: int
    left_out: Mapping[str, LeftOutRows]
    cleaned_captions: int
    dropped_columns: tuple[str, ...]
    advice: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.rows == self.pairs + sum(left.rows for left in self.left_out.values())
