"""DVC and git, by their command lines, as far as data versions go; no other file calls DVC.

``data/`` is the tracked folder and ``data.dvc`` beside it names its version. A call of DVC costs
about two seconds, most of it imports. Hashing a folder costs about 1.5 s a gigabyte.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from model.errors import DataError, ServiceError
from model.storage.files import file_digest
from tasks.runtime.environment import ROOT
from tasks.runtime.lineage import git
from tasks.runtime.locks import held_descriptors

DVC_FILE = "data.dvc"
COMMAND_TIMEOUT_S = 24 * 3600
NAMED_FILES = 3
# DVC's settings as DVC itself writes them; its own reader knows much more.
SECTION = re.compile(r"""\['?(?P<kind>\w+)(?: "(?P<name>[\w.-]+)")?'?\]\Z""")
SETTING = re.compile(r"(?P<key>\w+) = (?P<value>[\w./:@+-]+)\Z")
# What a killed `dvc pull` leaves beside the file that it was writing.
DVC_TEMPORARY = re.compile(r"\A\.[A-Za-z0-9_-]{22}\.tmp\Z")


class Remote(NamedTuple):
    """A DVC remote: its name and its folder or address."""

    name: str
    url: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this machine."""
        return "://" not in self.url


@dataclass(frozen=True)
class TrackedFolder:
    """A folder of pairs with the ``.dvc`` file that names its version, and DVC's cache.

    Neither the folder nor the file need be there.
    """

    folder: Path

    @property
    def tracked(self) -> Path:
        """The ``.dvc`` file that tracks the folder."""
        return self.folder.with_name(f"{self.folder.name}.dvc")

    @property
    def cache(self) -> Path:
        """The folder in which DVC keeps its copies of all versions."""
        return cache_folder(self.folder.parent)

    def promised(self) -> str:
        """Return the data version that the ``.dvc`` file names.

        Raises:
            DataError: the file is no ``.dvc`` file of a folder.
        """
        try:
            return version_in(self.tracked.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            raise DataError(
                f"{self.tracked}: not a readable .dvc file; "
                f"restore it with `git checkout {self.tracked.name}`"
            ) from None
        except ValueError as error:
            raise DataError(f"{self.tracked}: {error}") from None

    def promised_or_none(self) -> str | None:
        """Return the data version of the ``.dvc`` file, None where it is missing or names none."""
        try:
            return self.promised()
        except DataError:
            return None

    def add(self) -> None:
        """Run ``dvc add``: files go to DVC's cache, their version into the ``.dvc`` file.

        Raises:
            DataError: DVC could not.
        """
        done = dvc("add", self.folder.name, cwd=self.folder.parent)
        if done.returncode:
            raise DataError(
                f"{self.folder}: `dvc add` failed ({_complaint(done)}); mend that and run again"
            )

    def pull(self, into_cache_alone: bool = False) -> None:
        """Run ``dvc pull``, or ``dvc fetch``, which is a pull into DVC's cache alone.

        Raises:
            DataError: a local remote lacks the objects.
            ServiceError: a remote on the network failed.
        """
        self._transfer("fetch" if into_cache_alone else "pull")

    def push(self) -> None:
        """Run ``dvc push``; what an interrupted push has sent is not sent again.

        Raises:
            DataError: a remote in a folder failed.
            ServiceError: a remote on the network failed.
        """
        self._transfer("push", "then type `dvc push` or run again: what was sent is not sent twice")

    def _transfer(
        self, verb: str, advice: str = "and that the data version was pushed with `dvc push`"
    ) -> None:
        done = dvc(verb, self.tracked.name, cwd=self.tracked.parent)
        if not done.returncode:
            return
        remote = default_remote(self.tracked.parent)
        error = ServiceError if remote is not None and not remote.is_folder else DataError
        raise error(
            f"{self.tracked}: `dvc {verb}` failed ({_complaint(done)}); "
            f"check the remote with `dvc remote list`, {advice}"
        )


def data_folder(path: str = "data") -> Path:
    """Return a folder of pairs, taken relative to the repository."""
    return (ROOT / path).resolve()


def current_pairs() -> TrackedFolder:
    """Return the tracked folder of the repository: ``data/``."""
    return TrackedFolder(data_folder())


def version_in(text: str) -> str:
    """Return the data version that the text of a ``.dvc`` file names.

    Raises:
        ValueError: it names none; says what to do.
    """
    try:
        out = yaml.safe_load(text)["outs"][0]
        digest, path = str(out["md5"]), str(out["path"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        raise ValueError(
            "not a .dvc file with one output; restore it with `git checkout`"
        ) from None

    if not digest.endswith(".dir"):
        raise ValueError(
            f"tracks a file, expected a folder of pairs; run `dvc add {path}` on the folder"
        )
    return digest.removesuffix(".dir")


# ---- what a version holds ----


def hash_folder(folder: Path) -> dict[str, str]:
    """Return the MD5 (DVC's hash) of every file under a folder, by its relative path."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not DVC_TEMPORARY.match(path.name)
    )
    return {path.relative_to(folder).as_posix(): file_digest(path, "md5") for path in files}


def version_of(file_md5: dict[str, str]) -> str:
    """Return DVC's hash of a folder (without its ``.dir`` suffix).

    Source: DVC stores a folder as the JSON list of its files' MD5 and paths, named by that list's
    MD5.
    """
    entries = [{"md5": file_md5[path], "relpath": path} for path in sorted(file_md5)]
    listed = json.dumps(entries, sort_keys=True)
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()


def object_path(store: Path, md5: str) -> Path:
    """Return where a cache or a remote in a folder keeps the bytes of an MD5.

    An MD5 that ends in ``.dir`` is that of the list of a folder's files.
    """
    return store / "files" / "md5" / md5[:2] / md5[2:]


def expected_files(store: Path, version: str) -> dict[str, str] | None:
    """Return the MD5 of each file of a version, None where a store has no whole list of them."""
    try:
        listed = object_path(store, f"{version}.dir").read_bytes()
        listing = {entry["relpath"]: entry["md5"] for entry in json.loads(listed)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return listing if version_of(listing) == version else None


def first_paths(paths: Collection[str]) -> str:
    """Return the first few paths, for a sentence."""
    return ", ".join(list(paths)[:NAMED_FILES]) + (", …" if len(paths) > NAMED_FILES else "")


# ---- the repository ----


def require_repository(cwd: Path) -> None:
    """Refuse to make data versions where DVC cannot.

    Raises:
        DataError: the folder is no DVC repository, or one that wants git and has none.
    """
    if not (cwd / ".dvc").is_dir():
        raise DataError(
            f"{cwd}: DVC knows nothing of this folder; work in a clone, "
            "or make it one with `dvc init`"
        )
    if git("rev-parse", cwd=cwd) is None and _config(cwd).get("core.no_scm") != "true":
        raise DataError(
            f"{cwd}: not a git repository, so a data version could not be recorded; "
            "work in a clone, or tell DVC to do without by `dvc config core.no_scm true`"
        )


def default_remote(cwd: Path) -> Remote | None:
    """Return the remote that pushes and pulls use, or None where no default is set."""
    config = _config(cwd)
    name = config.get("core.remote", "")
    url = config.get(f"remote.{name}.url")
    return Remote(name, url) if url else None


def _config(cwd: Path) -> dict[str, str]:
    """Return DVC's settings from all its files, paths made absolute."""
    found = read_plain_config(cwd)
    if found is not None:
        return found
    lines = dvc("config", "--list", cwd=cwd).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def read_plain_config(cwd: Path) -> dict[str, str] | None:
    """Return DVC's settings without starting it, None where a line is not plain ``key = value``."""
    folders = [os.environ.get(f"DVC_{level}_CONFIG_DIR") for level in ("SYSTEM", "GLOBAL")]
    if None in folders or not (cwd / ".dvc").is_dir():
        return None
    own = (cwd / ".dvc").resolve()
    files = [Path(str(folder)) / "config" for folder in folders]

    # Each file overrides those before it; a relative path in it begins at its own folder.
    found, section = dict[str, str](), ""
    for file in (*files, own / "config", own / "config.local"):
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for line in (text.strip() for text in lines):
            if head := SECTION.match(line):
                section = ".".join(filter(None, head.group("kind", "name")))
            elif setting := SETTING.match(line):
                key, value = f"{section}.{setting['key']}", setting["value"]
                is_path = key in ("cache.dir", f"{section}.url") and "://" not in value
                found[key] = os.path.normpath(file.parent / value) if is_path else value
            elif line and not line.startswith("#"):
                return None
    return found


def is_inside_git(remote: Remote, cwd: Path) -> bool:
    """Return whether a push to the remote would put its files among those that git tracks."""
    top = git("rev-parse", "--show-toplevel", cwd=cwd)
    if top is None or not remote.is_folder or not Path(remote.url).is_relative_to(top.strip()):
        return False
    return git("check-ignore", "--quiet", remote.url, cwd=cwd) is None


@cache
def cache_folder(cwd: Path) -> Path:
    """Return the folder in which DVC keeps its copies of all versions; asked once a process."""
    known = read_plain_config(cwd)
    if known is not None:
        return Path(known.get("cache.dir") or cwd / ".dvc" / "cache").resolve()
    return Path(dvc("cache", "dir", cwd=cwd).stdout.strip())


def dvc(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of DVC; while it runs it keeps the locks of this process."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        pass_fds=held_descriptors(),
    )


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split()).removeprefix("ERROR: ")[-300:]
