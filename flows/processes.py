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

import psutil
from pydantic import ValidationError

from model.storage.files import atomic_write
from tasks.runtime.records import Record

STOP_TIMEOUT_S = 20
POLL_S = 0.1


class Process(Record):
    """A started process, leader of its group: its id, and when it started, in seconds of uptime.

    Uptime stays as it is when somebody sets the clock, which moves every moment of the day.
    """

    pid: int
    started: float | None


def start(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    umask: int = -1,
) -> Process:
    """Start a command in a session of its own, its output in a log file; return it at once.

    ``umask`` takes rights from the files that it makes; -1 leaves ours.
    """
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
            umask=umask,
        )

    child.returncode = 0  # it is meant to outlive this object, which would warn about that
    return Process(pid=child.pid, started=_started(child.pid))


def is_running(process: Process | None) -> bool:
    """Return whether this very process, not a later one with its id, is still there."""
    return (
        process is not None
        and process.started is not None
        and _started(process.pid) == process.started
    )


def stop(process: Process | None, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End a process and its group, politely, then by force; return whether there was one."""
    if process is None or not is_running(process):
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
    """Return the process that was written down; None where the file is missing or damaged."""
    try:
        return Process.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _started(pid: int) -> float | None:
    """Return when a process started, to a hundredth of a second; None where it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(float(process.create_time()) - float(psutil.boot_time()), 2)
    except psutil.NoSuchProcess:
        return None


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _has_members(group: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(group, os.WNOHANG)  # a child of ours would stay a zombie

    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
