"""What tests run in processes of their own that train together, as torchrun would start them."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from model.batches.loading import load_batch, pair_input
from model.config.sections import ModelConfig, StageConfig
from model.errors import CommerceClipError
from model.evaluation.split import evaluate_split
from model.pairs.index import PairSource, index_pairs
from model.towers.create import create_towers
from model.towers.towers import Towers
from model.training import loop as training
from model.training.distributed import launched_group, rank_of_world
from model.training.loop import train
from model.training.stage import Callbacks, Stage, StepRecord

LIMIT_S = 60
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.ranks", "tests.faults.killed_stage"])


@dataclass(frozen=True)
class Job:
    """A stage that processes train together; one of them dies at ``batch:N`` or ``validation``
    where that is asked.

    Another one may wish to stop, from its first step on.
    """

    model: ModelConfig
    config: StageConfig
    data: tuple[PairSource, PairSource]
    folder: Path
    dying_rank: int = -1
    point: str = ""
    stopping_rank: int = -1


@dataclass
class Heard:
    """What one process read, was told, and was asked."""

    rows: list[list[int]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    validations: int = 0
    state: dict[str, Any] = field(default_factory=dict)


def start_ranks(
    world: int, target: Callable[..., None], *arguments: Any
) -> list[ForkServerProcess]:
    """Start ``target(*arguments)`` in processes that find each other by torchrun's variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        CONTEXT.Process(target=_run, args=(rank, world, port, target, arguments))
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def ended(ranks: list[ForkServerProcess], limit_s: float = LIMIT_S) -> list[int | None]:
    """Return the exit codes after at most so many seconds; None for what had to be killed."""
    end = time.monotonic() + limit_s
    for rank in ranks:
        rank.join(max(0.0, end - time.monotonic()))
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.join()
        rank.close()
    return codes


def _run(
    rank: int, world: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    with launched_group(timedelta(seconds=LIMIT_S)):
        target(*arguments)


def train_together(job: Job) -> None:
    """Train a stage and leave what this process heard, its end state, or the sentence that ended it."""
    rank = rank_of_world()[0]
    try:
        heard, tensors = run_job(job)
    except CommerceClipError as error:
        (job.folder / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None
    (job.folder / f"heard-{rank}.json").write_text(json.dumps(asdict(heard)))
    torch.save(tensors, job.folder / f"end-{rank}.pt")


def run_job(job: Job) -> tuple[Heard, dict[str, torch.Tensor]]:
    """Train a stage; return what this process heard, and its weights at the end."""
    heard, rank = Heard(), rank_of_world()[0]
    towers = create_towers(job.model, "cpu", seed=3)
    pairs, valid = (pair_input(towers.input_spec, index_pairs([source])) for source in job.data)
    dies = rank == job.dying_rank

    def load(pairs: Any, rows: Any, crop: Any) -> Any:
        if dies and job.point == f"batch:{len(heard.rows)}":
            os.kill(os.getpid(), signal.SIGKILL)
        heard.rows.append(rows.tolist())
        return load_batch(pairs, rows, crop)

    def validate(towers: Towers) -> dict[str, float]:
        heard.validations += 1
        if job.point == "validation":
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            (job.folder / "validating").touch()
            while not (job.folder / "killed").exists():
                time.sleep(0.05)
        return evaluate_split(towers, valid, 32, 32, workers=0).metrics()

    def on_step(record: StepRecord) -> None:
        heard.steps.append(
            {**record.losses, "grad_norm": record.grad_norm, "logit_scale": record.logit_scale}
        )

    stage = Stage(job.config, pairs, validate, job.folder / "stage", seed=0, workers=0)
    with patch.object(training, "load_batch", load):
        callbacks = Callbacks(on_step=on_step, should_stop=lambda: rank == job.stopping_rank)
        heard.state = asdict(train(towers, stage, callbacks))
    return heard, {name: value.clone() for name, value in towers.clip.state_dict().items()}
