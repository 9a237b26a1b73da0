"""Webdataset: tar shards in which files of one key make a pair.

Format (webdataset library; img2dataset writes it): members ``key.ext``, where the key is the path
up to the first dot of the file's name: ``00012.jpg 00012.txt 00012.json``. The image is ``.jpg``,
``.jpeg``, ``.png``, ``.webp``, ``.gif``, ``.bmp`` or ``.avif``; the caption is ``.txt`` (UTF-8) or
else a field of ``.json``; options name other endings. Other scalars of the JSON become columns of
the side table, its ``id`` (or else the key) the product's id. Shards, plain or compressed, are read
in the order of their names; what macOS adds (``._name``, ``.DS_Store``) is passed over.

A shard is streamed once, front to back, about 2,500 keys/s (tarfile's headers); memory is one key.
Where the members of a key do not follow each other, the rest of the shard waits in a temporary file
(TMPDIR), and memory is 300 bytes a member. Nothing is unpacked and a member's name is never a path
here, so ``../x.jpg`` is an id like any other. A shard that was cut short is refused: what it lost
cannot be counted.
"""

import json
import re
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from pydantic import Field

from model.importers.image_files import IMAGE_ENDINGS
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
CAPTION_FIELDS = ("caption", "text", "title")
# A dot in a folder's name ends no key.
KEYS = {
    "first-dot": re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL),
    "last-dot": re.compile(r"((?:.*/)?[^/]+)\.([^./]*)", re.DOTALL),
}
# Companions of a file and of a folder that macOS's tar and zip add.
COMPANION = re.compile(r"(?:.*/)?(?:\._[^/]*|\.DS_Store)|(?:.*/)?__MACOSX/.*", re.DOTALL)
LISTED_OTHERS = 3
# Headers with names and attributes, which tarfile reads into memory whole; real ones have 1 KB.
LONG_HEADERS = b"xgXLK"
MAX_HEADER_BYTES = 1 << 20
TAR_ERRORS = (tarfile.TarError, EOFError, zlib.error, LZMAError)
ADVICE = {
    LeftOutReason.DOTTED_KEY: "a key ends at the first dot of a file's name; the option "
    "keys=last-dot ends it at the last",
    LeftOutReason.NO_IMAGE: f"images end in .{', .'.join(IMAGE_ENDINGS)}; the option image names "
    "another ending",
    LeftOutReason.NO_CAPTION: "captions are .txt, or a field of .json that the option caption "
    "names; the option text names another ending",
}


class Options(ImportOptions):
    """Options of webdataset shards."""

    caption: str | None = Field(
        None,
        description="The JSON field that is the caption, even where there is a .txt; "
        "by default .txt, else the first of caption, text and title.",
    )
    image: str | None = Field(
        None, pattern=r"^\w+$", description="Another ending of images, without its dot: img."
    )
    text: str | None = Field(
        None, pattern=r"^\w+$", description="Another ending of captions than txt: cap."
    )
    keys: Literal["first-dot", "last-dot"] = Field(
        "first-dot", description="Where the key of a member ends, the rest being its ending."
    )

    @property
    def images(self) -> tuple[str, ...]:
        """The endings of images, the chosen one first."""
        return IMAGE_ENDINGS if self.image is None else (self.image.lower(), *IMAGE_ENDINGS)

    @property
    def texts(self) -> str:
        """The ending of captions."""
        return "txt" if self.text is None else self.text.lower()

    @property
    def endings(self) -> set[str]:
        """The endings of what is a part of a pair."""
        return {*self.images, self.texts, "json"}


class Member(NamedTuple):
    """A file of a shard.

    ``data`` is None where it is too large to hold or no part of a pair; such a part has ``?`` for
    its ending, a file without a key has none.
    """

    key: str
    extension: str
    data: bytes | None
    name: str


def find_splits(sources: Sequence[Path], options: Options) -> list[SplitSource]:
    """Return the splits by the shards' names or their folders' names, else train.

    Raises:
        DataError: a source does not exist or holds no shard.
    """
    shards = find_files(sources, SHARD_ENDINGS)
    return [
        SplitSource(split, group, partial(_read, group, options), advice=ADVICE)
        for split, group in by_split(shards, options.split).items()
    ]


def _read(shards: Sequence[Path], options: Options) -> Iterator[SourceRow]:
    for shard in shards:
        with tempfile.TemporaryFile() as spool:
            for key, members in _groups(_read_members(shard, options), spool, options):
                if members[0].extension:
                    yield from _rows(key, members, options)
                else:
                    yield from (LeftOut(LeftOutReason.NO_KEY, key) for _ in members)


def _groups(
    members: Iterable[Member], spool: IO[bytes], options: Options
) -> Iterator[tuple[str, Sequence[Member]]]:
    """Yield the members of each key.

    As long as each key's members follow each other and make a pair, a key is yielded as it passes
    by; from the first that lacks something on, all wait for what may come.
    """
    waiting = _Waiting(spool)
    for (key, has_key), group in groupby(members, lambda one: (one.key, one.extension != "")):
        found: list[Member] = []
        endings: set[str] = set()
        for member in group:
            # A second image of a key is another pair's: all wait, so that memory is one pair.
            if member.data is not None and member.extension in endings:
                waiting.extend(found)
                found = []
            found.append(member)
            endings.add(member.extension)

        is_whole = endings.intersection(options.images) and endings & {options.texts, "json"}
        if not has_key or (is_whole and not waiting.members):
            yield key, found
        else:
            waiting.extend(found)
    yield from waiting.groups()


class _Waiting:
    """Members that wait in a file for others of their keys, in the order of their first ones."""

    def __init__(self, spool: IO[bytes]) -> None:
        self.spool = spool
        # By key and round: a second member of one key and ending begins a second pair of the key.
        self.members: dict[tuple[str, int], dict[str, tuple[Member, int, int]]] = {}
        self.rounds: Counter[tuple[str, str]] = Counter()

    def extend(self, members: Iterable[Member]) -> None:
        """Keep members until the end of their shard."""
        for member in members:
            self._keep(member)

    def _keep(self, member: Member) -> None:
        ending = member.name if member.extension == "?" else member.extension
        offset, length = self.spool.tell(), -1 if member.data is None else len(member.data)
        self.spool.write(member.data or b"")

        place = (member.key, self.rounds[member.key, ending])
        self.rounds[member.key, ending] += 1
        kept = (member._replace(data=None), offset, length)
        self.members.setdefault(place, {})[ending] = kept

    def groups(self) -> Iterator[tuple[str, Sequence[Member]]]:
        """Yield the keys with their members."""
        for (key, _), members in self.members.items():
            yield key, [self._read(*kept) for kept in members.values()]

    def _read(self, member: Member, offset: int, length: int) -> Member:
        self.spool.seek(offset)
        return member._replace(data=None if length < 0 else self.spool.read(length))


def _read_members(shard: Path, options: Options) -> Iterator[Member]:
    """Yield the files of a shard."""
    pattern, endings = KEYS[options.keys], options.endings
    with (
        reading_source(shard, *TAR_ERRORS),
        tarfile.open(shard, "r|*", tarinfo=_checked_headers(), ignore_zeros=True) as archive,
    ):
        while (info := archive.next()) is not None:
            # The archive would remember every member, 1 KB each.
            archive.members.clear()  # type: ignore[attr-defined]
            if info.isdir() or COMPANION.fullmatch(info.name):
                continue

            name = info.name.removeprefix("./")
            match = pattern.fullmatch(name)
            key, extension = (match[1], match[2].lower()) if match else (name, "")
            if info.isreg() and extension in endings:
                file = archive.extractfile(info) if info.size <= MAX_IMAGE_BYTES else None
                yield Member(key, extension, file.read() if file else None, name)
            else:
                yield Member(key, "?" if match else "", None, name)


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
                header = super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                if CheckedHeader.has_ended:
                    raise
                raise tarfile.TarError(f"a member's header is damaged: {error}") from None
            if header.type in LONG_HEADERS and header.size > MAX_HEADER_BYTES:
                raise tarfile.TarError(f"a member's header claims {header.size:,} bytes")
            return header

    return CheckedHeader


def _rows(key: str, members: Sequence[Member], options: Options) -> Iterator[SourceRow]:
    """Yield the pair of a key; without an image of its own, a row for each key with a dot."""
    known = [member for member in members if member.extension != "?"]
    others = [member.name for member in members if member.extension == "?"]
    dotted = {
        match[1]: None
        for name in others
        if (match := KEYS["last-dot"].fullmatch(name)) and match[2].lower() in options.endings
        if match[1] != key  # or a link, which is no file
    }
    if dotted and not any(member.extension in options.images for member in known):
        yield from (LeftOut(LeftOutReason.DOTTED_KEY, name) for name in dotted)
    else:
        yield _row(key, known, others, options)


def _row(key: str, members: Sequence[Member], others: Sequence[str], options: Options) -> SourceRow:
    files = {member.extension: member.data for member in members}
    if None in files.values():
        return LeftOut(LeftOutReason.TOO_LARGE, key)

    image = next((files[extension] for extension in options.images if extension in files), None)
    if not image:
        has = f" (it has {', '.join(others[:LISTED_OTHERS])})" if others else ""
        return LeftOut(LeftOutReason.NO_IMAGE, key + has)

    try:
        fields = json.loads(files.get("json") or b"{}")
    except (ValueError, RecursionError):
        return LeftOut(LeftOutReason.BAD_JSON, key)
    if not isinstance(fields, dict):
        return LeftOut(LeftOutReason.BAD_JSON, key)

    # The caption is the text file, unless an option names a field or there is none.
    names = CAPTION_FIELDS if options.caption is None else (options.caption,)
    caption = next((fields[name] for name in names if isinstance(fields.get(name), str)), "")
    text = files.get(options.texts)
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
