"""The files that a user names: found, checked and grouped by split."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from model.errors import DataError

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}


def find_files(sources: Sequence[Path], endings: tuple[str, ...]) -> list[Path]:
    """Return the named files, and of each named folder the files of these endings, sorted by name.

    Raises:
        DataError: a source does not exist, or is a folder without such a file, or is neither.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_file():
            files.append(source)
            continue
        if not source.is_dir():
            problem = "not a regular file" if source.exists() else "no such file or folder"
            raise DataError(f"{source}: {problem}; check the path")

        inside = sorted(
            path for path in source.iterdir() if path.name.endswith(endings) and path.is_file()
        )
        if not inside:
            raise DataError(
                f"{source}: no file that ends in {' or '.join(endings)}; name the files themselves"
            )
        files.extend(inside)
    return files


def split_of(path: Path, chosen: str | None) -> str:
    """Return the chosen split, else the one that the file's name or its folder's names, else train.

    A file's name is searched for words between signs: ``products-val.csv`` is valid, ``latest.csv``
    is train. A folder's name must be such a word.
    """
    words = (*re.split(r"[^a-z0-9]+", path.name.lower()), path.parent.name.lower())
    return chosen or next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")


def by_split(files: Iterable[Path], chosen: str | None) -> dict[str, tuple[Path, ...]]:
    """Group files by split, each group in the order of the names."""
    groups: dict[str, tuple[Path, ...]] = {}
    for path in sorted(files, key=lambda path: (path.name, path)):
        split = split_of(path, chosen)
        groups[split] = (*groups.get(split, ()), path)
    return groups


@contextmanager
def reading_source(
    path: Path, *damages: type[Exception], advice: str = "check the file or fetch it again"
) -> Iterator[None]:
    """Turn a failure to read a source into one sentence.

    ``damages`` are what its format's reader raises besides OSError.

    Raises:
        DataError: the file cannot be read or is damaged.
    """
    failures: tuple[type[Exception], ...] = (OSError, *damages)
    try:
        yield
    except failures as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read ({reason}); {advice}") from error
