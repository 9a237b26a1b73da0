"""The repository in which data versions live: git and DVC, by their command lines; no other file
calls them for data.

``data/`` is the tracked folder and ``data.dvc`` beside it names its version. A call of DVC costs
about two seconds, most of it imports.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from model.errors import CommerceClipError, DataError, ServiceError
from tasks.runtime.environment import ROOT
from tasks.runtime.locks import held_descriptors

DVC_FILE = "data.dvc"
COMMAND_TIMEOUT_S = 24 * 3600
GIT_TIMEOUT_S = 60


class Remote(NamedTuple):
    """A DVC remote: its name and its folder or address."""

    name: str
    url: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this machine."""
        return "://" not in self.url


def data_folder(path: str = "data") -> Path:
    """Return a folder of pairs, taken relative to the repository."""
    return (ROOT / path).resolve()


def tracked_file(folder: Path) -> Path:
    """Return the ``.dvc`` file that would track a folder."""
    return folder.with_name(f"{folder.name}.dvc")


def promised_version(tracked: Path) -> str:
    """Return the data version that a ``.dvc`` file names.

    Raises:
        DataError: the file is no ``.dvc`` file of a folder.
    """
    try:
        return version_in(tracked.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        pass
    except ValueError as error:
        raise DataError(f"{tracked}: {error}") from None
    raise DataError(
        f"{tracked}: not a readable .dvc file; restore it with `git checkout {tracked.name}`"
    )


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


def add(folder: Path) -> None:
    """Run ``dvc add`` on a folder: its files go to DVC's cache, its version into the ``.dvc`` file.

    Raises:
        DataError: DVC could not.
    """
    done = dvc("add", folder.name, cwd=folder.parent)
    if done.returncode:
        raise DataError(f"{folder}: `dvc add` failed ({_said(done)}); mend that and run again")


def pull(tracked: Path) -> None:
    """Run ``dvc pull`` for one ``.dvc`` file.

    Raises:
        DataError: a local remote lacks the objects.
        ServiceError: a remote on the network failed.
    """
    _transfer("pull", tracked, "and that the data version was pushed with `dvc push`")


def fetch(tracked: Path) -> None:
    """Run ``dvc fetch`` for one ``.dvc`` file: a pull into DVC's cache alone.

    Raises:
        DataError: a local remote lacks the objects.
        ServiceError: a remote on the network failed.
    """
    _transfer("fetch", tracked, "and that the data version was pushed with `dvc push`")


def push(tracked: Path) -> None:
    """Run ``dvc push`` for one ``.dvc`` file; what an interrupted push has sent is not sent again.

    Raises:
        DataError: a remote in a folder failed.
        ServiceError: a remote on the network failed.
    """
    _transfer("push", tracked, "then type `dvc push` or run again: what was sent is not sent twice")


def _transfer(verb: str, tracked: Path, advice: str) -> None:
    done = dvc(verb, tracked.name, cwd=tracked.parent)
    if done.returncode:
        raise _remote_error(
            tracked.parent,
            f"{tracked}: `dvc {verb}` failed ({_said(done)}); check the remote with `dvc remote list`, {advice}",
        )


def require_repository(cwd: Path) -> None:
    """Refuse to make data versions where DVC cannot.

    Raises:
        DataError: the folder is no DVC repository, or one that wants git and has none.
    """
    if not (cwd / ".dvc").is_dir():
        raise DataError(
            f"{cwd}: DVC knows nothing of this folder; work in a clone, or make it one with `dvc init`"
        )
    if git("rev-parse", cwd=cwd) is None and _config(cwd).get("core.no_scm") != "true":
        raise DataError(
            f"{cwd}: not a git repository, so a data version could not be recorded; work in a clone, "
            "or tell DVC to do without by `dvc config core.no_scm true`"
        )


def default_remote(cwd: Path) -> Remote | None:
    """Return the remote that pushes and pulls use, or None where no default is set."""
    config = _config(cwd)
    name = config.get("core.remote", "")
    url = config.get(f"remote.{name}.url")
    return Remote(name, url) if url else None


def _config(cwd: Path) -> dict[str, str]:
    """Return DVC's settings from all its files, paths made absolute."""
    lines = dvc("config", "--list", cwd=cwd).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def is_inside_git(remote: Remote, cwd: Path) -> bool:
    """Return whether a push to the remote would put its files among those that git tracks."""
    top = git("rev-parse", "--show-toplevel", cwd=cwd)
    if top is None or not remote.is_folder or not Path(remote.url).is_relative_to(top.strip()):
        return False
    return git("check-ignore", "--quiet", remote.url, cwd=cwd) is None


@cache
def cache_folder(cwd: Path) -> Path:
    """Return the folder in which DVC keeps its copies of all versions; asked once a process."""
    return Path(dvc("cache", "dir", cwd=cwd).stdout.strip())


def object_path(cache: Path, md5: str) -> Path:
    """Return where a cache or a remote in a folder keeps the bytes of an MD5 (``….dir`` is the list of a folder)."""
    return cache / "files" / "md5" / md5[:2] / md5[2:]


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


def git(*arguments: str, cwd: Path) -> str | None:
    """Return what a command of git prints, None where it fails: no git, no repository, or the answer is no."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split()).removeprefix("ERROR: ")[-300:]


def _remote_error(cwd: Path, sentence: str) -> CommerceClipError:
    remote = default_remote(cwd)
    return (
        ServiceError(sentence)
        if remote is not None and not remote.is_folder
        else DataError(sentence)
    )
