"""What the crash tests run: a process that has tiny towers and pairs ready, and forks a training
for every trial.

A trial costs its training alone, a second or less, because nothing is imported or made again for
it.
"""

import hashlib
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.support.measure import children
from model.batches.loading import PairInput, pair_input
from model.config.sections import ModelConfig, StageConfig
from model.errors import CommerceClipError, TrainingStopped
from model.evaluation.split import evaluate_split
from model.pairs.index import PairSource, index_pairs
from model.towers.create import create_towers
from model.towers.towers import Towers
from model.training.loop import train
from model.training.stage import Callbacks, EpochRecord, Stage
from tasks.runtime.signals import stop_by_signal

EPOCHS = 4
BAD_INPUT, BUG, INTERRUPTED = 1, 2, 130
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Trial:
    """What is done to a training in a folder.

    ``fault`` is armed after so many epochs. A signal comes so many seconds after the first step,
    or, with ``at_call``, when the loop or its validation has asked so often whether to stop.
    ``spare_bytes`` is what memory it may take yet.
    """

    folder: Path
    share: float = 1.0
    fault: str = ""
    armed_after: int = 0
    number: int = 0
    after_s: float = 0.0
    at_call: int = 0
    spare_bytes: int = 0
    workers: int = 1


class Ended(NamedTuple):
    """How a training ended: its exit code, seconds from its first step on, and what it had that
    could outlive it.

    That is the processes it had started, and the shared-memory files it had mapped, when its signal
    came.
    """

    code: int
    seconds: float
    started: list[int]
    shared: list[str]


def serve(
    connection: Connection,
    model: ModelConfig,
    config: StageConfig,
    data: tuple[PairSource, PairSource],
) -> None:
    """Say that all is ready, then answer each trial that comes with how it ended, until None
    comes."""
    torch.set_num_threads(1)
    towers = create_towers(model, "cpu", seed=3)
    train_pairs, valid_pairs = (
        pair_input(towers.input_spec, index_pairs([source])) for source in data
    )
    connection.send(None)
    while (trial := connection.recv()) is not None:
        connection.send(_run(trial, towers, config, train_pairs, valid_pairs))


def _run(
    trial: Trial,
    towers: Towers,
    config: StageConfig,
    train_pairs: PairInput,
    valid_pairs: PairInput,
) -> Ended:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = BUG
        try:
            code = _train(
                trial, towers, config, train_pairs, valid_pairs, lambda: os.write(writer, b".")
            )
        finally:
            os._exit(code)
    os.close(writer)
    os.read(reader, 1)  # ends at the first step, or with the child
    begin = time.monotonic()
    started, shared = list[int](), list[str]()
    if trial.number and not trial.at_call:
        time.sleep(trial.after_s)
        with suppress(OSError):  # it may have ended
            maps = Path(f"/proc/{child}/maps").read_text().splitlines()
            started, shared = children(child), [line for line in maps if "/dev/shm" in line]
            os.kill(child, trial.number)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - begin, started, shared)


def _train(
    trial: Trial,
    towers: Towers,
    config: StageConfig,
    train_pairs: PairInput,
    valid_pairs: PairInput,
    on_start: Callable[[], object],
) -> int:
    """Train to the end and return the exit code; a sentence is left in ``<folder>.error``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A fork has to make torch's pool of threads anew. Autograd's threads would do so at once, and
    # one of them would find none.
    torch.set_num_threads(1)
    calls, taken = 0, list[bytearray]()

    def arm(epoch: int) -> None:
        if trial.fault and epoch == trial.armed_after:
            os.environ["FAULT"] = trial.fault

    def begin(first_step: int, steps: int) -> None:
        arm(0)
        on_start()
        if trial.spare_bytes:
            taken.extend(_take_all_memory())
            del taken[: trial.spare_bytes // MEBIBYTE]

    def on_epoch(record: EpochRecord) -> None:
        arm(record.epoch)

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        if calls == trial.at_call:
            os.kill(os.getpid(), trial.number)
        return stop()

    def stop_if(is_wished: bool) -> None:
        if is_wished:
            raise TrainingStopped("stopped during validation")

    def validate(towers: Towers) -> dict[str, float]:
        return evaluate_split(
            towers, valid_pairs, 32, 32, 0, lambda rows: stop_if(should_stop())
        ).metrics()

    changed = config.model_copy(update={"checkpoint_share": trial.share})
    stage = Stage(changed, train_pairs, validate, trial.folder, seed=0, workers=trial.workers)
    try:
        with stop_by_signal() as stop:
            train(towers, stage, Callbacks(begin, on_epoch=on_epoch, should_stop=should_stop))
    except CommerceClipError as error:
        trial.folder.with_suffix(".error").write_text(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _take_all_memory() -> list[bytearray]:
    """Take what the heap has free from earlier work and 16 MiB more, the largest pieces first; no
    more is to be had."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 16 * MEBIBYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    taken = []
    for size in (MEBIBYTE, MEBIBYTE // 16, MEBIBYTE // 256):
        with suppress(MemoryError):
            while True:
                taken.append(bytearray(size))
    return taken


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what a finished stage's folder ends with, by the path inside it.

    That is every tensor file and the state of the newest checkpoint, and the best weights.
    """
    newest = max((folder / "checkpoints").glob("step-?????????"))
    files = [
        *newest.glob("*.safetensors"),
        newest / "state.json",
        *folder.glob("best-*/*.safetensors"),
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
