"""The terms of an objective are what the pure losses say of the embeddings that the queue held at that moment."""

import pytest
import torch
from torch.nn.functional import normalize

from model.concepts.mining import MAX_CONCEPTS_A_CAPTION, Vocabulary
from model.config.sections import ModelConfig
from model.towers.create import create_towers
from model.training.losses import info_nce
from model.training.objective import EmbeddedPairs, Objective
from tests.tiny import WIDTH, tiny_stage_config

VOCABULARY = Vocabulary(("blue", "red", "shoe"), (3, 3, 4), 10, ())
SCALE = torch.tensor(10.0)


def embedded(pairs: int, seed: int) -> EmbeddedPairs:
    """Return pairs of captions that are all different from those of any other seed."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        normalize(torch.randn(pairs, WIDTH, generator=generator), dim=1) for _ in range(2)
    )
    concepts = torch.full((pairs, MAX_CONCEPTS_A_CAPTION), -1)
    concepts[:, 0] = torch.randint(0, 3, (pairs,), generator=generator)
    ids = torch.arange(2 * pairs).view(pairs, 2) + 1000 * seed
    return EmbeddedPairs(image, text, ids, concepts)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    from tests.tiny import write_model

    return write_model(tmp_path_factory.mktemp("objective"))


def objective(model: ModelConfig, **changes: object) -> Objective:
    return Objective(create_towers(model, "cpu"), tiny_stage_config(**changes), VOCABULARY)


def test_nearest_neighbour_supervision_pairs_each_image_with_the_text_that_was_nearest_before_the_step(
    tiny_model: ModelConfig,
) -> None:
    chosen = objective(tiny_model, nearest_weight=0.2, concept_weight=0.0)
    first, second = embedded(12, 1), embedded(6, 2)
    chosen(first, SCALE)
    terms = chosen(second, SCALE)
    nearest = first.text[(second.text @ first.text.T).argmax(dim=1)]
    torch.testing.assert_close(terms["nearest"], info_nce(second.image, nearest, SCALE))
    torch.testing.assert_close(terms["loss"], terms["info_nce"] + 0.2 * terms["nearest"])
    assert "concept" not in terms


def test_an_empty_queue_makes_nearest_neighbour_supervision_plain_info_nce_without_a_text_gradient(
    tiny_model: ModelConfig,
) -> None:
    pairs = embedded(6, 1)
    text = pairs.text.clone().requires_grad_()
    image = pairs.image.clone().requires_grad_()
    terms = objective(tiny_model, nearest_weight=1.0)(pairs._replace(image=image, text=text), SCALE)
    torch.testing.assert_close(terms["nearest"], terms["info_nce"])
    image_gradient, text_gradient = torch.autograd.grad(
        terms["nearest"], [image, text], allow_unused=True
    )
    assert text_gradient is None and float(image_gradient.abs().sum()) > 0
