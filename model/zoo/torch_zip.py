"""The zip that ``torch.save`` writes: a pickle, a few small records and, one a record, the bytes of
its tensors.

Each record has a CRC-32, which torch does not look at when it maps the file.
"""

import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from model.errors import CheckpointError
from model.zoo.streams import PIECE_BYTES, Pieces

STORAGES = "/data/"
CODE = "/code/"
# The fixed part of the header before each record's bytes, and where it tells how long its name and
# extra field are.
HEADER_BYTES, LENGTHS = 30, 26
# What reading a damaged record raises: the zip's own complaint, the end, or that of what unpacks
# it.
DAMAGED = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)


def can_be_mapped(path: Path) -> bool:
    """Tell whether a file is such a zip with its tensors as they are in memory, and check all else
    in it.

    A zip that was compressed anew is checked whole and is to be read: torch would map it, and take
    it for numbers.

    Raises:
        CheckpointError: the zip is damaged or a program.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(CODE in record.filename for record in records):
            raise CheckpointError(
                f"{path}: a TorchScript archive, which is code; import its weights as .safetensors instead"
            )
        is_plain = all(
            _is_stored_tensor(record) for record in records if STORAGES in record.filename
        )
        _check(
            path,
            archive,
            (record for record in records if not (is_plain and _is_stored_tensor(record))),
        )
    return is_plain


def _check(path: Path, archive: zipfile.ZipFile, records: Iterable[zipfile.ZipInfo]) -> None:
    for record in records:
        try:
            with archive.open(record) as content:
                while content.read(PIECE_BYTES):
                    pass
        except DAMAGED:
            raise _damaged(path, record) from None


def checked_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file and check, on the way, the tensors of such a zip that were
    not compressed.

    Reads the whole file, so it is for a thread beside the one that copies the tensors.

    Raises:
        CheckpointError: the file is damaged.
    """
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        pieces = Pieces(file)
        for record, start in _stored_tensors(path):
            for piece in pieces.until(start):
                digest.update(piece)
            crc = 0
            for piece in pieces.until(start + record.file_size):
                digest.update(piece)
                crc = zlib.crc32(piece, crc)
            if crc != record.CRC:
                raise _damaged(path, record)
        for piece in pieces.until(path.stat().st_size):
            digest.update(piece)
    return digest.hexdigest()


def _stored_tensors(path: Path) -> Iterator[tuple[zipfile.ZipInfo, int]]:
    """Yield the records of tensors that were not compressed, in the file's order, and where their bytes start."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for record in sorted(
            filter(_is_stored_tensor, archive.infolist()), key=lambda record: record.header_offset
        ):
            try:
                file.seek(record.header_offset + LENGTHS)
                name, extra = struct.unpack("<HH", file.read(4))
            except (OSError, ValueError, struct.error):  # it is said to lie outside of the file
                raise _damaged(path, record) from None
            yield record, record.header_offset + HEADER_BYTES + name + extra


def _is_stored_tensor(record: zipfile.ZipInfo) -> bool:
    return STORAGES in record.filename and record.compress_type == zipfile.ZIP_STORED


def _damaged(path: Path, record: zipfile.ZipInfo) -> CheckpointError:
    return CheckpointError(f"{path}: damaged (CRC-32 of {record.filename} differs); fetch it again")
