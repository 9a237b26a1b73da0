"""Image files that a table names by path or URL; none is read outside its root, none is fetched."""

import stat
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from urllib.parse import unquote, urlsplit

from model.importers.records import MAX_IMAGE_BYTES, LeftOutReason

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "avif")
ENDINGS = ("", *(f".{case}" for ending in IMAGE_ENDINGS for case in (ending, ending.upper())))


def find_image(root: Path, name: str, folders: Sequence[str] = ("",)) -> bytes | LeftOutReason:
    """Return the bytes of the file that a path or URL names, or why there are none.

    The file must lie under ``root``, a resolved folder; ``folders`` are those inside it that the
    name may begin in.
    """
    reason = LeftOutReason.MISSING_IMAGE if name.strip() else LeftOutReason.NO_IMAGE
    for candidate in _candidates(name.strip(), folders):
        image = _read_inside(root, candidate)
        if isinstance(image, bytes):
            return image
        # Of what the candidates ran into, being absent is the least telling.
        if image is not LeftOutReason.MISSING_IMAGE:
            reason = image
    return reason


def _candidates(name: str, folders: Sequence[str]) -> Iterator[str]:
    """Yield the paths to try, each as it is and with the usual endings.

    Of a URL they are its path, then its file name.
    """
    try:
        url = urlsplit(name)
    except ValueError:  # such as http://[
        return

    paths = [name.replace("\\", "/")]
    if url.scheme in ("http", "https"):
        path = unquote(url.path).lstrip("/")
        paths = [path, path.rpartition("/")[2]]
    for folder, path in product(folders, filter(None, paths)):
        yield from (f"{folder}/{path}{ending}" if folder else path + ending for ending in ENDINGS)


def _read_inside(root: Path, name: str) -> bytes | LeftOutReason:
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            return LeftOutReason.OUTSIDE_IMAGES

        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return LeftOutReason.MISSING_IMAGE
        return path.read_bytes() if status.st_size <= MAX_IMAGE_BYTES else LeftOutReason.TOO_LARGE
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        return LeftOutReason.MISSING_IMAGE
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return LeftOutReason.UNREADABLE_IMAGE
