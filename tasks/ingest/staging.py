"""Stage a drop: a folder in the project's layout beside the current version, which stays as it is.

Files of the drop are copied (one read, one write, hashed on the way), files of the current version
are hard links where the disk allows, so a drop of one split costs that split. A source that changes
under the copy is refused.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model.config.sections import Name
from model.errors import DataError
from model.pairs.split import SPLITS
from model.pairs.splits import side_table_path
from model.pairs.tsv import check_file
from model.storage.files import atomic_write
from model.storage.sealed import require_space
from tasks.data.dvc import current_pairs, version_of
from tasks.ingest.feed import split_feed
from tasks.runtime.environment import state_folder
from tasks.runtime.progress import progress
from tasks.runtime.records import DataVersion, Record

COPY_BYTES = 1 << 22


class Drop(Record):
    """What a person hands in: TSVs by split, a feed to split, or a quarantine with corrected lines.

    Side tables are found beside their TSVs.
    """

    name: str
    train: Path | None = None
    valid: Path | None = None
    test: Path | None = None
    pretrain: tuple[Path, ...] = ()
    quarantine: Path | None = None
    feed: Path | None = None

    def tsv_files(self) -> dict[str, Path]:
        """Return the TSVs by their place in the project's layout.

        Raises:
            DataError: two pretraining files have one name, or a name cannot be used.
        """
        finetune = {"train": self.train, "valid": self.valid, "test": self.test}
        files = {f"finetune/{split}.tsv": path for split, path in finetune.items() if path}

        # Pretraining files keep their names, so two folders may bring the same one.
        for path in self.pretrain:
            place = f"pretrain/{require_name(path.stem, str(path))}.tsv"
            if place in files:
                raise DataError(
                    f"{path}: a second pretraining file named {path.name}; rename one of them"
                )
            files[place] = path
        return files


class Staged(Record):
    """A staged folder, the MD5 of its files, and what it was made of."""

    name: str
    folder: Path
    file_md5: dict[str, str]
    taken_over: list[str]
    notes: list[str]


def staged_version(staged: Staged) -> DataVersion:
    """Return the version that DVC will give a staged folder."""
    return DataVersion(
        folder=staged.folder,
        version=version_of(staged.file_md5),
        is_tracked=False,
        file_md5=staged.file_md5,
    )


def stage_drop(drop: Drop, current: DataVersion | None) -> Staged:
    """Copy a drop into the project's layout; the current version gives what it leaves out.

    Raises:
        DataError: a file is no TSV, a link elsewhere, or changed under the copy; or train or test
        is missing.
        CheckpointError: less is free than the copies and DVC's cache need.
    """
    given: dict[str, Path] = {}
    for place, path in drop.tsv_files().items():
        given[place] = require_source(path)
        if side_table_path(path).exists():
            given[side_table_path(Path(place)).as_posix()] = require_source(side_table_path(path))

    # Side tables go with their TSVs, pretraining files together.
    replaced = {*given, *(side_table_path(Path(place)).as_posix() for place in given)}
    if drop.feed is not None:
        finetune = [Path(f"finetune/{split}.tsv") for split in SPLITS]
        replaced |= {each.as_posix() for tsv in finetune for each in (tsv, side_table_path(tsv))}
    brings_pretrain = any(place.startswith("pretrain/") for place in given)
    kept = {
        place: path
        for place, path in (places_of(current) if current else {}).items()
        if place not in replaced and not (brings_pretrain and place.startswith("pretrain/"))
    }

    places = {*given, *kept}
    missing = [split for split in ("train", "test") if f"finetune/{split}.tsv" not in places]
    if missing and drop.feed is None:
        options = " and ".join(f"--{split}" for split in missing)
        why = f"{current.folder} has none" if current else "there is no version to take over from"
        raise DataError(f"{' and '.join(missing)}: not in the drop, and {why}; give {options}")

    folder = fresh_folder(drop.name)
    feed = None if drop.feed is None else require_source(drop.feed)
    read = [*given.values(), *([] if feed is None else [feed])]
    size = sum(path.stat().st_size for path in read)
    require_room(folder, size)
    with progress("stage", size, "B") as bar:
        digests = {
            place: copy_file(path, folder / place, bar.advance) for place, path in given.items()
        }
        if feed is not None:
            written = split_feed(feed, folder / "finetune", bar.advance)
            digests |= {f"finetune/{name}": md5 for name, md5 in written.items()}
    if current is not None:
        digests |= take_over(current, kept, folder)
    return Staged(
        name=drop.name, folder=folder, file_md5=digests, taken_over=sorted(kept), notes=[]
    )


def take_over(current: DataVersion, kept: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Give files of the current version a second place, and return their known MD5.

    They are hard links where both places lie on one disk, so they cost nothing.
    """
    digests = {}
    for place, path in kept.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)  # DVC may have made the file a link to its cache
        except OSError:
            copy_file(path, target, lambda _: None)
        digests[place] = current.file_md5[path.relative_to(current.folder).as_posix()]
    return digests


def copy_file(source: Path, target: Path, on_bytes: Callable[[int], None]) -> str:
    """Copy a file and return its MD5; ``on_bytes`` gets the bytes done since its last call.

    Raises:
        DataError: the source changed while it was copied.
        CheckpointError: the disk is full.
    """
    before, digest = _stamp(source), hashlib.md5(usedforsecurity=False)
    with open(source, "rb") as read, atomic_write(target) as written:
        # A source may grow as fast as it is read.
        while (chunk := read.read(COPY_BYTES)) and written.tell() <= before[0]:
            digest.update(chunk)
            written.write(chunk)
            on_bytes(len(chunk))
    if _stamp(source) != before:
        raise DataError(
            f"{source}: changed while it was copied; wait until it is complete and run again"
        )
    return digest.hexdigest()


def require_name(name: str, where: str) -> str:
    """Return a name that may become part of a path.

    Raises:
        DataError: it may not.
    """
    try:
        return str(TypeAdapter(Name).validate_python(name))
    except ValidationError:
        raise DataError(
            f"{where}: {name!r} cannot be a name; "
            "use lower-case letters, digits, '.', '_' and '-', at most 64"
        ) from None


def require_source(path: Path) -> Path:
    """Return the path of a file that may be staged.

    Raises:
        DataError: it is no regular file that can be read, or a link that leads out of its folder.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        raise DataError(
            f"{path}: a link to {path.resolve()}, outside its folder; name that file itself"
        )
    check_file(path)
    return path


def require_room(folder: Path, size: int) -> None:
    """Check, before any copy, that a staged copy and the one in DVC's cache fit on their disks.

    Raises:
        CheckpointError: less is free than is needed.
    """
    cache = current_pairs().cache
    existing = [
        next(path for path in (place, *place.parents) if path.exists()) for place in (folder, cache)
    ]
    # Both places may lie on one disk.
    disks = {path.stat().st_dev: path for path in existing}
    for path in disks.values():
        require_space(
            path, 2 * size // len(disks), "the copy of the pairs and the one in DVC's cache"
        )


def staging_folder(name: str) -> Path:
    """Return where an ingest of this name puts its version together."""
    return state_folder() / "ingest" / require_name(name, "--name")


def fresh_folder(name: str) -> Path:
    """Return an empty staging folder; what a killed ingest left in it is removed."""
    folder = staging_folder(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def places_of(version: DataVersion) -> dict[str, Path]:
    """Return the files of a data version, flat ones too, by their place in the project's layout."""
    is_flat = not (version.folder / "finetune").is_dir()
    return {
        f"finetune/{path}" if is_flat else path: version.folder / path for path in version.file_md5
    }


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
