"""Background processes that outlive the command which started them: start, recognise, stop.

A process is known by its id and the moment it started, so an id that the system has given to
another process since is never signalled. Each is started in a session of its own; stopping it ends
its whole group.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from model.storage.files import atomic_write
from tasks.runtime.records import Record

STOP_TIMEOUT_S = 20
POLL_S = 0.1
ZOMBIE = "Z"


class Process(Record):
    """A started process, leader of its group: its id, and when it started as the system counts."""

    pid: int
    started: str


class _Seen(NamedTuple):
    group: int
    state: str
    started: str


def start(command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path) -> Process:
    """Start a command in a session of its own with its output in a log file, and return it at once."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        child = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    seen = _processes().get(child.pid)
    child.returncode = 0  # it is meant to outlive this object, which would warn about that
    return Process(pid=child.pid, started=seen.started if seen else "")


def is_running(process: Process) -> bool:
    """Return whether this very process, not a later one with its id, is still there."""
    seen = _processes().get(process.pid)
    return seen is not None and seen.state != ZOMBIE and seen.started == process.started


def stop(process: Process, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End a process and its group, politely, then by force; return whether there was anything to end."""
    if not is_running(process):
        return False
    _signal_group(process.pid, signal.SIGTERM)
    give_up = time.monotonic() + timeout_s
    while _has_members(process.pid):
        if time.monotonic() > give_up:
            _signal_group(process.pid, signal.SIGKILL)
            give_up = float("inf")
        time.sleep(POLL_S)
    return True


def save(process: Process, path: Path) -> None:
    """Write a process down, so that a later command can stop it."""
    with atomic_write(path) as file:
        file.write(process.model_dump_json().encode())


def load(path: Path) -> Process | None:
    """Return the process that was written down, or None where there is no such file or it is damaged."""
    try:
        return Process.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _has_members(group: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(group, os.WNOHANG)  # a child of ours would stay a zombie
    return any(seen.group == group and seen.state != ZOMBIE for seen in _processes().values())


def _processes() -> dict[int, _Seen]:
    """Return all processes of this machine by id."""
    return _from_proc() if Path("/proc/self/stat").exists() else _from_ps()


def _from_proc() -> dict[int, _Seen]:
    """Read Linux's process table; start moments are ticks since a boot, so the boot is part of them."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything, also spaces and parentheses.
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        found[int(path.parent.name)] = _Seen(int(fields[2]), fields[0], f"{boot}/{fields[19]}")
    return found


def _from_ps() -> dict[int, _Seen]:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,pgid=,stat=,lstart="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(None, 3) for line in listing.splitlines())
    return {int(pid): _Seen(int(group), state[0], started) for pid, group, state, started in rows}
