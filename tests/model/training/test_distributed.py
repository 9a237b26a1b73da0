"""Two processes train as one does: the same losses, the same weights, one that validates, writes and reports."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from model.batches.sampler import Sampler
from model.concepts.mining import MAX_CONCEPTS_A_CAPTION, Vocabulary
from model.config.sections import ModelConfig
from model.errors import CheckpointError, DataError
from model.training.checkpoint import load_latest
from model.training.distributed import (
    any_rank,
    ask_main,
    average_,
    barrier,
    broadcast_object,
    gather_rows,
    is_main,
    launched_group,
    mean_over_ranks,
    rank_of_world,
    require_same_step,
)
from model.training.objective import EmbeddedPairs, Objective
from tests.ranks import Job, ended, run_job, start_ranks, train_together
from tests.tiny import TinyData, tiny_stage_config

WITHIN = 1e-5


@pytest.fixture(scope="module")
def jobs(
    tiny_model: ModelConfig, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Job]:
    """The same 20 steps for one process and for two, of which each embeds its eight pairs in parts."""
    terms = {"distill_weight": 0.5, "nearest_weight": 0.2}
    rest = {"ema_decay": 0.9, "lr": 1e-3, "interpolation": [0.5]}
    data, folder = (tiny_data.train, tiny_data.valid), tmp_path_factory.mktemp("ranks")
    made = {}
    for name, size in (("one", None), ("two", 3)):
        (folder / name).mkdir()
        config = tiny_stage_config(epochs=5, micro_batch_size=size, **terms, **rest)
        made[name] = Job(tiny_model, config, data, folder / name)
    return made


def test_two_processes_end_where_one_does(jobs: dict[str, Job]) -> None:
    ranks = start_ranks(2, train_together, jobs["two"])
    alone, weights = run_job(jobs["one"])
    assert ended(ranks) == [0, 0]
    folder = jobs["two"].folder
    told = [json.loads((folder / f"heard-{rank}.json").read_text()) for rank in (0, 1)]
    assert (
        len(alone.steps) == 20
        and {"info_nce", "concept", "nearest", "distill"} < alone.steps[0].keys()
    )
    assert_close(told[0]["steps"], alone.steps)
    assert told[1]["steps"] == [] and (told[0]["validations"], told[1]["validations"]) == (6, 0)
    assert told[0]["state"] == told[1]["state"] and told[0]["state"]["step"] == 20
    sampled = [Sampler(64, 16, 0, rank, 2) for rank in (0, 1)]
    for heard, sampler in zip(told, sampled, strict=True):
        assert heard["rows"] == [
            rows.tolist() for epoch in range(5) for rows in sampler.batches(epoch)
        ]
    ends = [torch.load(folder / f"end-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in weights.items():
        assert torch.equal(ends[0][name], ends[1][name]), name
        torch.testing.assert_close(ends[0][name], value, rtol=0, atol=WITHIN, msg=name)
    one, two = (load_latest(job.folder / "stage" / "checkpoints") for job in jobs.values())
    assert one is not None and two is not None
    for name, value in one.tensors["objective"].items():
        rows = 40 if name in ("queue.sums", "queue.total") else 1  # what is a sum over the queue
        torch.testing.assert_close(
            two.tensors["objective"][name], value, rtol=0, atol=WITHIN * rows, msg=name
        )


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=WITHIN, abs=WITHIN)


def measured_terms(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Return the terms of a part of six pairs, of which the first three alone name concepts, and their gradients."""
    generator = torch.Generator().manual_seed(1)
    embeddings = [normalize(torch.randn(6, 4, generator=generator), dim=1) for _ in range(2)]
    concepts = torch.full((6, MAX_CONCEPTS_A_CAPTION), -1)
    concepts[:3, 0] = torch.tensor([0, 0, 1])
    concepts[1:3, 1] = 1
    part = slice(rank * 6 // world, (rank + 1) * 6 // world)
    image, text = (embedding[part].requires_grad_() for embedding in embeddings)
    towers: Any = SimpleNamespace(embed_dim=4, device=torch.device("cpu"), clip=None)
    vocabulary = Vocabulary(("red", "shirt"), (3, 4), 6, ())
    objective = Objective(towers, tiny_stage_config(queue_size=9), vocabulary)
    scale = torch.tensor(9.0, requires_grad=True)
    terms = objective(
        EmbeddedPairs(image, text, torch.arange(12).reshape(6, 2)[part], concepts[part]), scale
    )
    terms["loss"].backward()
    gradients = {"scale": scale.grad, "concept_scale": objective.log_scale.grad}
    found = {
        name: value.detach() for name, value in (terms | gradients).items() if value is not None
    }
    average_(list(found.values()))
    assert image.grad is not None and text.grad is not None
    found |= {"image": gather_rows(image.grad) / world, "text": gather_rows(text.grad) / world}
    assert objective.queue is not None
    return found | {f"queue.{name}": value for name, value in objective.queue.named_buffers()}


def measure_terms(folder: Path) -> None:
    """Leave what this process measured."""
    rank, world = rank_of_world()
    torch.save(measured_terms(rank, world), folder / f"terms-{rank}.pt")


def test_terms_and_gradients_are_those_of_one_process_where_one_part_names_no_concept(
    tmp_path: Path,
) -> None:
    ranks = start_ranks(2, measure_terms, tmp_path)
    alone = measured_terms(0, 1)
    assert ended(ranks) == [0, 0]
    assert float(alone["concept"]) > 0.1 and float(alone["concept_scale"].abs()) > 1e-3
    for rank in (0, 1):
        parts = torch.load(tmp_path / f"terms-{rank}.pt", weights_only=True)
        assert parts.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(parts[name], value, rtol=WITHIN, atol=1e-6, msg=name)


def talk(folder: Path) -> None:
    """Check, in two processes, what each function brings."""
    rank, _ = rank_of_world()
    assert is_main() == (rank == 0)
    assert broadcast_object({"says": ["é", rank]}) == {"says": ["é", 0]}
    assert any_rank(rank == 1, False) == (True, False)
    assert float(mean_over_ranks(torch.tensor(rank * 3))) == 1.5

    rows = torch.arange(4.0).reshape(2, 2).add(10 * rank).requires_grad_()
    everyone = gather_rows(rows)
    assert everyone.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
    (everyone * torch.arange(1.0, 5.0)[:, None] * (rank + 1)).sum().backward()
    assert rows.grad is not None and rows.grad[:, 0].tolist() == ([3, 6] if rank == 0 else [9, 12])

    large = [torch.full((9_000_000,), float(rank)) for _ in range(3)]
    small = torch.tensor(4.0 * rank)
    assert average_([*large, small])[-1] is small and float(small) == 2
    assert all(bool((tensor == 0.5).all()) for tensor in large)

    assert ask_main(lambda: {"asked": rank}) == {"asked": 0}
    with pytest.raises(DataError, match="the first one's reason"):
        ask_main(lambda: fail(rank))
    require_same_step(4)
    with pytest.raises(
        CheckpointError,
        match=r"different steps, number . at ., the first at 0; put the state folder",
    ):
        require_same_step(rank)
    barrier()
    (folder / f"done-{rank}").touch()


def fail(rank: int) -> None:
    assert rank == 0, "the others do not ask"
    raise DataError("the first one's reason")


def test_what_processes_tell_each_other(tmp_path: Path) -> None:
    assert ended(start_ranks(2, talk, tmp_path)) == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done-0", "done-1"]


def test_a_process_that_is_alone_talks_to_nobody() -> None:
    rows, value = torch.ones(2, 3), torch.tensor(5)
    with launched_group():
        assert rank_of_world() == (0, 1) and is_main()
        assert gather_rows(rows) is rows and average_([rows])[0] is rows
        assert float(mean_over_ranks(value)) == 5 and any_rank(True, False) == (True, False)
        assert ask_main(lambda: value) is value and broadcast_object(value) is value
        require_same_step(3)
        barrier()
