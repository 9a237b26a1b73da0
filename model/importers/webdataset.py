"""Webdataset: tar shards in which files of one key make a pair.

Format (webdataset library; img2dataset writes it): members ``key.ext`` follow each other, where the
key is the path up to the first dot of the file's name: ``00012.jpg 00012.txt 00012.json``. The
image is ``.jpg``, ``.jpeg``, ``.png`` or ``.webp``; the caption is ``.txt`` (UTF-8) or else a field
of ``.json``. Other scalars of the JSON become columns of the side table, its ``id`` (or else the
key) the product's id. Shards, plain or compressed, are read in the order of their names.

A shard is streamed once, front to back, about 2,500 keys/s (tarfile's headers); memory is one key.
Nothing is unpacked and a member's name is never a path here, so ``../x.jpg`` is an id like any
other. A shard that was cut short is refused: what it lost cannot be counted.
"""

import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from lzma import LZMAError
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from model.importers.records import (
    MAX_IMAGE_BYTES,
    ImportedPair,
    ImportOptions,
    LeftOut,
    LeftOutReason,
    SourceRow,
    SplitSource,
)
from model.importers.sources import by_split, find_files, reading_source

SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MEMBER_EXTENSIONS = {*IMAGE_EXTENSIONS, "txt", "json"}
CAPTION_FIELDS = ("caption", "text", "title")
KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # a dot in a folder's name ends no key
TAR_ERRORS = (tarfile.TarError, EOFError, zlib.error, LZMAError)


class Options(ImportOptions):
    """Options of webdataset shards."""

    caption: str | None = Field(
        None,
        description="The JSON field that is the caption, even where there is a .txt; "
        "by default .txt, else the first of caption, text and title.",
    )


class Member(NamedTuple):
    """A file of a shard; ``data`` is None where it is too large to hold."""

    key: str
    extension: str
    data: bytes | None


def find_splits(sources: Sequence[Path], options: Options) -> list[SplitSource]:
    """Return the splits by the shards' names or their folders' names, else train.

    Raises:
        DataError: a source does not exist or holds no shard.
    """
    shards = find_files(sources, SHARD_ENDINGS)
    return [
        SplitSource(split, group, partial(_read, group, options))
        for split, group in by_split(shards, options.split).items()
    ]


def _read(shards: Sequence[Path], options: Options) -> Iterator[SourceRow]:
    for shard in shards:
        groups = groupby(_read_members(shard), lambda member: (member.key, member.extension != ""))
        for (key, has_key), members in groups:
            yield _row(key, members, options) if has_key else LeftOut(LeftOutReason.NO_KEY, key)


def _read_members(shard: Path) -> Iterator[Member]:
    """Yield the files of a shard.

    One without a key has no extension, one that is no part of a pair has ``?``.
    """
    with (
        reading_source(shard, *TAR_ERRORS),
        tarfile.open(shard, "r|*", tarinfo=_checked_headers(), ignore_zeros=True) as archive,
    ):
        while (info := archive.next()) is not None:
            # The archive would remember every member, 1 KB each.
            archive.members.clear()  # type: ignore[attr-defined]
            if info.isdir():
                continue

            match = KEY.fullmatch(info.name.removeprefix("./"))
            key, extension = (match[1], match[2].lower()) if match else (info.name, "")
            if info.isreg() and extension in MEMBER_EXTENSIONS:
                file = archive.extractfile(info) if info.size <= MAX_IMAGE_BYTES else None
                yield Member(key, extension, file.read() if file else None)
            else:
                yield Member(key, "?" if match else "", None)


def _checked_headers() -> type[tarfile.TarInfo]:
    """Return a reader of headers that raises on damage, which for tarfile ends the archive."""

    class CheckedHeader(tarfile.TarInfo):
        has_ended = False

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
            if len(buf) < tarfile.BLOCKSIZE and not (CheckedHeader.has_ended and not buf):
                raise tarfile.TarError("cut short")

            # Zeros end an archive; behind them may stand another one, or nothing.
            CheckedHeader.has_ended = not any(buf)
            try:
                return super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                if CheckedHeader.has_ended:
                    raise
                raise tarfile.TarError(f"a member's header is damaged: {error}") from None

    return CheckedHeader


def _row(key: str, members: Iterator[Member], options: Options) -> SourceRow:
    files: dict[str, bytes | None] = {}
    for member in members:
        if member.extension in MEMBER_EXTENSIONS:
            files.setdefault(member.extension, member.data)
    if None in files.values():
        return LeftOut(LeftOutReason.TOO_LARGE, key)

    image = next((files[extension] for extension in IMAGE_EXTENSIONS if extension in files), None)
    if not image:
        return LeftOut(LeftOutReason.NO_IMAGE, key)

    try:
        fields = json.loads(files.get("json") or b"{}")
    except (ValueError, RecursionError):
        return LeftOut(LeftOutReason.BAD_JSON, key)
    if not isinstance(fields, dict):
        return LeftOut(LeftOutReason.BAD_JSON, key)

    # The caption is the text file, unless an option names a field or there is none.
    names = CAPTION_FIELDS if options.caption is None else (options.caption,)
    caption = next((fields[name] for name in names if isinstance(fields.get(name), str)), "")
    text = files.get("txt")
    if text is not None and options.caption is None:
        try:
            caption = text.decode("utf-8-sig").strip("\r\n")
        except UnicodeDecodeError:
            return LeftOut(LeftOutReason.BAD_UTF8, key)

    # Lists and structs have no column, nor has the caption, but for a title that is one.
    columns = {
        name: _scalar(value) for name, value in fields.items() if not isinstance(value, dict | list)
    }
    product = columns.pop("id", "") or key
    repeated = {name for name in names if name != "title" and columns.get(name) == caption}
    columns = {name: value for name, value in columns.items() if name not in repeated}
    return ImportedPair(product, caption, image, columns)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
