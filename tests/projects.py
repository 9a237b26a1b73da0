"""Real git and DVC repositories with a tracked ``data/``, for every test of data versions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.data.dvc import dvc as run_dvc
from tasks.runtime.environment import settings

AUTHOR = ("-c", "user.name=A. Tester", "-c", "user.email=tester@example.org")


def dvc(project: Path, *arguments: str) -> str:
    """Run DVC and return what it printed."""
    done = run_dvc(*arguments, cwd=project)
    assert done.returncode == 0, done.stderr
    return done.stdout


def git(project: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    return subprocess.run(
        ["git", *AUTHOR, *arguments], cwd=project, check=True, capture_output=True, text=True
    ).stdout


def make_project(folder: Path, pairs: Path) -> Path:
    """Make a repository whose ``data/`` is tracked, committed and pushed to ``remote`` beside."""
    project = folder / "project"
    project.mkdir()
    git(project, "init", "--quiet", "--initial-branch=main")
    shutil.copytree(pairs, project / "data")
    dvc(project, "init")
    dvc(project, "remote", "add", "--default", "shop", "../remote")
    dvc(project, "add", "data")
    dvc(project, "push")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=First data version")
    return project


def clone_project(original: Path, folder: Path) -> Path:
    """Return a copy with a remote of its own."""
    clone = Path(shutil.copytree(original, folder / "project"))
    shutil.copytree(original.parent / "remote", folder / "remote")
    return clone


def use(project: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process work in a project with a state folder of its own."""
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(state))
    for name, value in settings().items():
        if name.startswith("DVC"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr("tasks.data.dvc.ROOT", project)


def forget(project: Path) -> None:
    """Leave of a project what a fresh clone has: data.dvc, no data and no cache."""
    for folder in (project / "data", project / ".dvc" / "cache", project / ".dvc" / "tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def objects(store: Path) -> list[Path]:
    """Return the objects of a cache or a remote, the largest first."""
    sizes = {
        path: path.stat().st_size
        for path in (store / "files").glob("md5/*/[0-9a-f]*")
        if path.is_file()
    }
    return sorted(sizes, key=lambda path: sizes[path], reverse=True)


def object_of(store: Path, md5: str) -> Path:
    """Return the object of a cache or a remote that holds the bytes of an MD5."""
    return store / "files" / "md5" / md5[:2] / md5[2:]


def flip_a_bit(path: Path) -> None:
    """Damage a file in its middle."""
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    overwrite(path, bytes(damaged))


def overwrite(path: Path, content: bytes) -> None:
    """Change a file that DVC has made read-only."""
    path.chmod(0o644)
    path.write_bytes(content)


def child_environment(state: Path) -> dict[str, str]:
    """Return the environment of a child that works with a state folder."""
    return os.environ | {
        "COMMERCE_CLIP_STATE": str(state),
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }


def child(code: str, *arguments: object, state: Path, **more: str) -> "subprocess.Popen[str]":
    """Start an interpreter that runs code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=child_environment(state) | more,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
