"""A batch in micro-batches has the gradient of the whole batch, of each weight and scale."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batches.loading import Batch, Crop, PairInput, load_batch, pair_input
from model.concepts.labels import label_concepts
from model.concepts.mining import ConceptLabels
from model.config.sections import ModelConfig
from model.errors import ConfigError
from model.towers import passes as tower_passes
from model.towers.create import create_towers
from model.towers.towers import Towers
from model.training.distillation import Teacher
from model.training.gradient_caching import backward_in_parts
from model.training.objective import Objective
from model.training.optimizer import make_optimizer
from model.training.update import Updater
from tests.tiny import TINY_MODEL, TinyData, tiny_stage_config

Gradients = dict[str, Tensor]
Updated = tuple[Gradients, Gradients, Objective]
PAIRS = 22


@pytest.fixture(scope="module")
def pairs(tiny_model: ModelConfig, tiny_data: TinyData) -> PairInput:
    return pair_input(create_towers(tiny_model, "cpu").input_spec, tiny_data.train_index())


@pytest.fixture(scope="module")
def batch(pairs: PairInput) -> Batch:
    """A batch in which every caption comes twice."""
    return load_batch(pairs, np.r_[0:11, 32:43], Crop(16))


@pytest.fixture(scope="module")
def plain(tiny_model: ModelConfig, pairs: PairInput, batch: Batch) -> Updated:
    """The whole batch at once."""
    return updated(create_towers(tiny_model, "cpu", seed=3), pairs, batch)


def updated(
    towers: Towers,
    pairs: PairInput,
    batch: Batch,
    teacher: Teacher | None = None,
    **changes: object,
) -> Updated:
    """Update the towers once; return gradients by name, what was measured, and the objective."""
    config = tiny_stage_config(lr=1e-4, grad_clip=1e6, **changes)
    vocabulary, concepts = label_concepts(pairs, config)
    objective = Objective(towers, config, vocabulary)
    towers.clip.train()
    update = Updater(
        towers, objective, make_optimizer(towers.clip, objective, config), config, teacher
    )
    labels: ConceptLabels | None = None if concepts is None else concepts[batch.rows]
    measured = update(batch, labels)
    named = [*towers.clip.named_parameters(), *objective.named_parameters(prefix="objective")]
    return (
        {name: value.grad for name, value in named if value.grad is not None},
        measured,
        objective,
    )


def assert_same(ours: Gradients, theirs: Gradients, within: float = 1e-5) -> None:
    """Compare each tensor by the largest difference, relative to its largest number."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert float((ours[name] - value).abs().max()) <= within * max(
            float(value.abs().max()), 1e-3
        ), name


@pytest.mark.parametrize("micro_batch_size", [1, 5, 11, PAIRS, 100])
def test_micro_batches_have_the_gradient_of_the_whole_batch_the_scales_too(
    plain: Updated, tiny_model: ModelConfig, pairs: PairInput, batch: Batch, micro_batch_size: int
) -> None:
    gradients, plain_terms, plain_objective = plain
    cached, terms, objective = updated(
        create_towers(tiny_model, "cpu", seed=3), pairs, batch, micro_batch_size=micro_batch_size
    )
    assert {"logit_scale", "objective.log_scale"} < gradients.keys()
    assert float(gradients["logit_scale"].abs()) > 1e-4
    assert_same(cached, gradients)
    assert_same(terms, plain_terms)
    assert int(objective.queue.filled) == PAIRS, "the queue gets a batch once"
    assert_same(dict(objective.queue.named_buffers()), dict(plain_objective.queue.named_buffers()))


def test_the_teacher_s_embeddings_come_in_micro_batches_too(
    tiny_model: ModelConfig, pairs: PairInput, batch: Batch
) -> None:
    teacher = Teacher(create_towers(tiny_model, "cpu", seed=9))
    changes = {"distill_weight": 1.0}
    plain, plain_terms, _ = updated(
        create_towers(tiny_model, "cpu", seed=3), pairs, batch, teacher, **changes
    )
    cached, terms, _ = updated(
        create_towers(tiny_model, "cpu", seed=3),
        pairs,
        batch,
        teacher,
        micro_batch_size=7,
        **changes,
    )
    assert float(plain_terms["distill"]) > 1e-3
    assert_same(cached, plain)
    assert_same(terms, plain_terms)


def test_a_frozen_tower_gets_no_gradient_and_the_other_the_same(
    tiny_model: ModelConfig, pairs: PairInput, batch: Batch
) -> None:
    found = []
    for size in (None, 6):
        towers = create_towers(tiny_model, "cpu", seed=3)
        towers.clip.visual.requires_grad_(False)
        found.append(updated(towers, pairs, batch, micro_batch_size=size)[0])
    assert not any(name.startswith("visual.") for name in found[0])
    assert_same(found[1], found[0])


def noisy_embed(towers: Towers) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return an embedding that drops numbers at random."""

    def embed(images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        image = towers.clip.encode_image(
            torch.nn.functional.dropout(images.float() / 255, 0.3), normalize=True
        )
        return image, towers.clip.encode_text(tokens, normalize=True)

    return embed


def test_both_passes_drop_the_same_and_the_next_step_drops_other_things(
    towers: Towers, batch: Batch
) -> None:
    embed = noisy_embed(towers)

    def losses(image: Tensor, text: Tensor) -> dict[str, Tensor]:
        return {
            "loss": (towers.clip.logit_scale.exp() * image @ text.T).logsumexp(1).mean()
            + torch.rand(()) * 0
        }

    torch.manual_seed(5)
    backward_in_parts(embed, losses, batch.images, batch.tokens, 6, towers.device)
    cached, after = (
        {name: value.grad for name, value in towers.clip.named_parameters()},
        torch.rand(3),
    )
    towers.clip.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    parts = [
        embed(*part) for part in zip(batch.images.split(6), batch.tokens.split(6), strict=True)
    ]
    losses(*(torch.cat(side) for side in zip(*parts, strict=True)))["loss"].backward()
    assert_same(cached, {name: value.grad for name, value in towers.clip.named_parameters()})
    assert torch.equal(after, torch.rand(3)), "the generator stands where one pass leaves it"


def deeper_model(folder: Path) -> ModelConfig:
    """Return towers of three blocks, of which all but the last can be computed again."""
    sides = {side: TINY_MODEL[side] | {"layers": 3} for side in ("vision_cfg", "text_cfg")}  # type: ignore[operator]
    path = folder / "tiny-test-deeper.json"
    path.write_text(json.dumps(TINY_MODEL | sides), encoding="utf-8")
    return ModelConfig(name=str(path))


def test_checkpointed_activations_give_the_same_gradients(
    tmp_path: Path, pairs: PairInput, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, honest, model = [0], tower_passes.checkpoint, deeper_model(tmp_path)

    def counted(*arguments: object, **options: object) -> object:
        calls[0] += 1
        return honest(*arguments, **options)

    monkeypatch.setattr(tower_passes, "checkpoint", counted)
    gradients, terms, _ = updated(create_towers(model, "cpu", seed=3), pairs, batch)
    assert calls == [0]
    for size, passes in ((None, 1), (11, 4)):
        calls[0] = 0
        towers = create_towers(model, "cpu", seed=3)
        ours, our_terms, _ = updated(
            towers, pairs, batch, checkpoint_activations=True, micro_batch_size=size
        )
        assert calls == [4 * passes], "two blocks in each tower"
        assert_same(ours, gradients)
        assert_same(our_terms, terms)


def test_batch_norm_is_refused_where_a_batch_comes_in_parts(
    towers: Towers, pairs: PairInput, batch: Batch
) -> None:
    towers.clip.visual.extra = torch.nn.BatchNorm2d(3)
    with pytest.raises(ConfigError, match=r"batch norm.*micro_batch_size to null"):
        updated(towers, pairs, batch, micro_batch_size=4)
    updated(towers, pairs, batch)
