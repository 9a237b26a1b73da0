"""A stage's metrics on their way to MLflow: spooled at once, sent by a thread, never lost.

Training appends a line to ``metrics.jsonl`` in the stage's folder (about 20 µs) and goes on. A
thread sends the lines in order and remembers in ``metrics.sent`` how far it came, so a server that
is away, slow or restarted costs nothing: what waits is sent when it is back, or when the run is
started again. A line that is sent twice is one to MLflow, because its time stamp is the spool's.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import ServiceError
from model.storage.files import atomic_write
from tasks.runtime.log import run_logger

SPOOL, SENT = "metrics.jsonl", "metrics.sent"
LINES_A_REQUEST = 50
PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
CLOSE_TIMEOUT_S = 20.0


class Measured(NamedTuple):
    """Values of one step by name, and when they were measured (milliseconds since 1970, UTC)."""

    step: int
    time_ms: int
    values: dict[str, float]


Send = Callable[[list[Measured]], None]


class MetricLog:
    """The metrics of one stage; each step is logged once, even if a killed stage repeats steps."""

    def __init__(self, stage: str, folder: Path, send: Send) -> None:
        """Take up the spool of an earlier try and start sending."""
        self._stage, self._folder, self._send = stage, folder, send
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / SPOOL).open("ab+")

        # The last step spooled of each kind; it is below an earlier one where training went back.
        self._last: dict[str, int] = {}
        whole = self._file.seek(0)
        while (entry := _parse(line := self._file.readline())) is not None:
            self._last[entry["kind"]] = entry["step"]
            whole += len(line)
        # A kill may have left a line half-written.
        self._file.truncate(whole)

        self._news, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="metrics", daemon=True)
        self._thread.start()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a training step."""
        self._append("step", step, values)

    def add_epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Log the validation values of the epoch that ended with a step."""
        self._append("epoch", step, {f"valid_{name}": value for name, value in values.items()})

    def go_back(self, step: int) -> None:
        """Log the steps after this one again: training went back to it and takes other steps."""
        self._last = {kind: min(last, step) for kind, last in self._last.items()}

    def _append(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if step <= self._last.get(kind, -1):
            return
        self._last[kind] = step

        # MLflow takes no NaN.
        named = {
            f"{self._stage}/{name}": value for name, value in values.items() if math.isfinite(value)
        }
        line = {"kind": kind, "step": step, "time_ms": time.time_ns() // 1_000_000, "values": named}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self._news.set()

    def close(self, timeout_s: float | None = None) -> None:
        """Stop the thread after what it can send in time (20 s); the rest waits in the spool."""
        self._file.close()
        self._stopping.set()
        self._news.set()
        self._thread.join(CLOSE_TIMEOUT_S if timeout_s is None else timeout_s)
        if next(_unsent(self._folder), None) is not None:
            run_logger().warning(
                "MLflow does not take metrics; they wait in %s and are sent when the run ends "
                "or goes on",
                self._folder / SPOOL,
            )

    def _send_all(self) -> None:
        """Send the spool as it grows, in growing pauses while the server is away."""
        pause_s = PAUSE_S
        while True:
            self._news.wait()
            self._news.clear()
            is_last = self._stopping.is_set()

            try:
                send_rest(self._folder, self._send)
                pause_s = PAUSE_S
            except ServiceError:
                self._news.set()
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if is_last:
                return

            # A pause gathers steps into one request, and spares a server that is away.
            self._stopping.wait(pause_s)


def send_rest(folder: Path, send: Send) -> int:
    """Send what a stage's spool still holds and return how many lines that were.

    Raises:
        ServiceError: MLflow does not answer; what was sent is remembered.
    """
    lines = 0
    for group, end in _unsent(folder):
        send(group)
        with atomic_write(folder / SENT) as file:
            file.write(str(end).encode())
        lines += len(group)
    return lines


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry if line.endswith(b"\n") else None


def _unsent(folder: Path) -> Iterator[tuple[list[Measured], int]]:
    """Yield what was not sent yet in groups, each with the offset in the spool at which it ends."""
    try:
        at = int((folder / SENT).read_text(encoding="ascii"))
    except (OSError, ValueError):
        at = 0
    if not (folder / SPOOL).exists():
        return

    with (folder / SPOOL).open("rb") as file:
        file.seek(at)
        group: list[Measured] = []
        while (entry := _parse(line := file.readline())) is not None:
            group.append(Measured(entry["step"], entry["time_ms"], entry["values"]))
            at += len(line)
            if len(group) == LINES_A_REQUEST:
                yield group, at
                group = []
        if group:
            yield group, at
