"""MUGE and every data set in Chinese-CLIP's layout: queries as JSON lines, images as a TSV.

Format (Chinese-CLIP, OFA-Sys; MUGE multimodal retrieval, Tianchi), two UTF-8 files a split in one
folder:

    {split}_texts.jsonl   {"text_id": 8428, "text": "高级感托特包斜挎", "image_ids": [1076345]}
    {split}_imgs.tsv      1076345<TAB>base64 of the encoded image

MUGE's own release has MR_{split}_queries.jsonl with query_id, query_text and item_ids for the same.
A query has many images and an image many queries: each (text, image) becomes a pair, the
image's id is the product. Queries without image_ids, as in the published test split, are no pairs;
they are counted as ``no_image_ids``. Ids may be numbers, whole floats (``1001.0`` is 1001) or text,
one alone or a list; a text may be a number; the queries may be one JSON array. What has another
form is left out as ``bad_field``, with the field and its form.

Images are found by an index of offsets, about 150 bytes of memory an image; a queries file is read
twice, an images file once from end to end and then by random access: about 4,600 pairs/s from a
warm disk.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from model.errors import DataError
from model.importers.records import (
    MAX_LINE_BYTES,
    ImportedPair,
    ImportOptions,
    LeftOut,
    LeftOutReason,
    SourceRow,
    SplitSource,
)
from model.importers.sources import SPLIT_WORDS, find_files, reading_source
from model.pairs.tsv import BOM, HEAD_BYTES, check_file, decode_base64, read_lines

TEXTS_NAME = re.compile(r"(?:MR_)?([A-Za-z0-9][\w-]{0,60})_(?:texts|queries)\.jsonl", re.ASCII)
IMAGES_ENDING = "_imgs.tsv"
MAX_ARRAY_BYTES = 200_000_000
FIELDS = (("text_id", "text", "image_ids"), ("query_id", "query_text", "item_ids"))
# What pandas makes of an id beside a gap.
FLOAT_ID = re.compile(r"\s*(-?\d+)\.0+\s*", re.ASCII)
FORMS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


class Query(NamedTuple):
    """One line of a queries file."""

    id: str
    text: str
    images: tuple[str, ...]


def find_splits(sources: Sequence[Path], options: ImportOptions) -> list[SplitSource]:
    """Return one split a queries file that has its images file beside it or among the sources.

    Raises:
        DataError: there is no queries file, or one lacks its images file.
    """
    files = find_files(sources, (".jsonl", IMAGES_ENDING))
    named = [(path, match) for path in files if (match := TEXTS_NAME.fullmatch(path.name))]
    if not named:
        raise DataError(
            f"{', '.join(path.name for path in files)}: no {{split}}_texts.jsonl or "
            "MR_{split}_queries.jsonl; name it or its folder"
        )

    found = []
    for texts, match in named:
        beside = texts.with_name(texts.name[: match.end(1)] + IMAGES_ENDING)
        images = next((path for path in files if path.name == beside.name), beside)
        if not images.is_file():
            raise DataError(
                f"{texts}: no {beside.name} beside it; a split needs both its texts and its images"
            )
        for path in (texts, images):
            check_file(path)

        word = match[1].lower()
        split = options.split or SPLIT_WORDS.get(word, word)
        rows = sum(
            max(1, len(query.images)) if isinstance(query, Query) else 1
            for query in _read_queries(texts)
        )
        found.append(SplitSource(split, (texts, images), partial(_read, texts, images), rows))
    return found


def _read(texts: Path, images: Path) -> Iterator[SourceRow]:
    offsets = _index(images)
    with reading_source(images), images.open("rb") as file:
        for query in _read_queries(texts):
            if isinstance(query, LeftOut):
                yield query
            elif not query.images:
                yield LeftOut(LeftOutReason.NO_IMAGE_IDS, f"text {query.id}")
            else:
                for image_id in query.images:
                    offset = offsets.get(image_id)
                    yield _pair(query, image_id, file, offset)


def _pair(query: Query, image_id: str, file: IO[bytes], offset: int | None) -> SourceRow:
    name = f"image {image_id} of text {query.id}"
    if offset is None:
        return LeftOut(LeftOutReason.MISSING_IMAGE, name)

    file.seek(offset)
    image = decode_base64(file.readline().rstrip(b"\r\n").partition(b"\t")[2].strip())
    if image is None:
        return LeftOut(LeftOutReason.BAD_BASE64, name)
    return ImportedPair(image_id, query.text, image, {"text_id": query.id})


def _index(images: Path) -> dict[str, int]:
    """Return the byte offset of each image's line; of a repeated id the first."""
    offsets: dict[str, int] = {}
    with reading_source(images):
        for line in read_lines(images, MAX_LINE_BYTES):
            if line.data is not None and b"\t" in line.data:
                image_id = line.data.partition(b"\t")[0].decode("utf-8", "replace")
                offsets.setdefault(_plain_id(image_id), line.offset)
    return offsets


def _read_queries(texts: Path) -> Iterator[Query | LeftOut]:
    """Yield the queries of a file; blank lines are none."""
    with reading_source(texts):
        array = _read_array(texts)
        if array is not None:
            for place, value in enumerate(array, 1):
                yield _parse_query(value, f"{texts.name} entry {place}")
            return

        for line in read_lines(texts, MAX_LINE_BYTES):
            name = f"{texts.name} line {line.line}"
            if line.data is None:
                yield LeftOut(LeftOutReason.TOO_LARGE, name)
            elif line.data.strip():
                try:
                    value = json.loads(line.data)
                except (ValueError, RecursionError):
                    yield LeftOut(LeftOutReason.BAD_JSON, name)
                else:
                    yield _parse_query(value, name)


def _read_array(texts: Path) -> list[Any] | None:
    """Return the queries of a file that is one JSON array, None where it is lines.

    Raises:
        DataError: the array is too large to hold.
    """
    with texts.open("rb") as file:
        is_array = file.read(HEAD_BYTES).removeprefix(BOM).lstrip().startswith(b"[")
    if not is_array:
        return None
    if texts.stat().st_size > MAX_ARRAY_BYTES:
        raise DataError(
            f"{texts}: an array of over {MAX_ARRAY_BYTES:,} bytes; write a query a line instead"
        )

    try:
        content = json.loads(texts.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, list) else None


def _parse_query(value: Any, name: str) -> Query | LeftOut:
    if not isinstance(value, dict):
        return LeftOut(LeftOutReason.BAD_FIELD, f"{name}: {_form(value)}, not an object")

    # The two releases differ in the names of their fields.
    fields = next((fields for fields in FIELDS if fields[1] in value), None)
    if fields is None:
        return LeftOut(LeftOutReason.BAD_FIELD, f"{name}: no {FIELDS[0][1]} or {FIELDS[1][1]}")
    query_id, text, images = (value.get(field) for field in fields)

    if _is_number(text):
        text = json.dumps(text)
    if not isinstance(text, str):
        return LeftOut(LeftOutReason.BAD_FIELD, f"{name}: {fields[1]} is {_form(text)}, not text")

    listed = images if isinstance(images, list) else [] if images is None else [images]
    strange = next((one for one in listed if not (isinstance(one, str) or _is_number(one))), None)
    if strange is not None or None in listed:
        found = f"{fields[2]} has {_form(strange)}, not ids"
        return LeftOut(LeftOutReason.BAD_FIELD, f"{name}: {found}")
    return Query(_plain_id(str(query_id)), text, tuple(_plain_id(str(one)) for one in listed))


def _is_number(value: Any) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole or (isinstance(value, float) and math.isfinite(value))


def _form(value: Any) -> str:
    return FORMS.get(type(value), "a number")


def _plain_id(text: str) -> str:
    """Return an id without blanks around it and, of a whole float, without its ``.0``."""
    whole = FLOAT_ID.fullmatch(text)
    return whole[1] if whole else text.strip()
