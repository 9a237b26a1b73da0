"""The feature queue's running sums, and prototypes, are those of a slow look at its rows."""

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from model.concepts.mining import MAX_CONCEPTS_A_CAPTION
from model.concepts.prototypes import FeatureQueue, concept_targets

WIDTH = 5
CONCEPTS = 4


def batch(pairs: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        normalize(torch.randn(pairs, WIDTH, generator=generator), dim=1) for _ in range(2)
    )
    concepts = torch.full((pairs, MAX_CONCEPTS_A_CAPTION), -1)
    for row in range(pairs):
        chosen = torch.nonzero(torch.rand(CONCEPTS, generator=generator) < 0.4)[:, 0]
        concepts[row, : len(chosen)] = chosen
    return image, text, concepts, torch.randint(0, 5, (pairs,), generator=generator)


class SlowQueue:
    """Keeps every row ever pushed and looks at the latest Q in float64."""

    def __init__(self, size: int) -> None:
        self.size, self.rows, self.captions = (
            size,
            list[tuple[Tensor, Tensor, set[int]]](),
            list[int](),
        )

    def push(self, image: Tensor, text: Tensor, concepts: Tensor, captions: Tensor) -> None:
        for row in range(len(image)):
            ids = {int(number) for number in concepts[row] if number >= 0}
            self.rows.append((image[row].double(), text[row].double(), ids))
        self.captions += captions.tolist()

    def latest(self) -> list[tuple[Tensor, Tensor, set[int]]]:
        return self.rows[-self.size :]

    def nearest_text(self, text: Tensor, caption: int) -> Tensor:
        rows = zip(self.latest(), self.captions[-self.size :], strict=True)
        others = [row[1] for row, other in rows if other != caption]
        return max(others, key=lambda other: float(other @ text.double()), default=text.double())

    def mean(self, side: int) -> Tensor:
        zero = torch.zeros(WIDTH, dtype=torch.float64)
        return sum((row[side] for row in self.latest()), zero) / max(len(self.latest()), 1)

    def of(self, concept: int, side: int) -> list[Tensor]:
        return [row[side] for row in self.latest() if concept in row[2]]  # type: ignore[misc]

    def prototype(self, concept: int) -> Tensor:
        if not 2 <= len(self.of(concept, 0)) < len(self.latest()):
            return torch.zeros(WIDTH, dtype=torch.float64)
        sides = [
            torch.stack(self.of(concept, side)).mean(dim=0) - self.mean(side) for side in (0, 1)
        ]
        return normalize(sum(normalize(side, dim=0) for side in sides), dim=0)  # type: ignore[arg-type]


def assert_equals_slow(queue: FeatureQueue, slow: SlowQueue) -> None:
    assert queue.members.tolist() == [len(slow.of(concept, 0)) for concept in range(CONCEPTS)]
    assert int(queue.filled) == len(slow.latest())
    for side, mean in enumerate(queue.means()):
        torch.testing.assert_close(mean.double(), slow.mean(side), rtol=0, atol=1e-5)
        zero = torch.zeros(WIDTH, dtype=torch.float64)
        sums = torch.stack([sum(slow.of(concept, side), zero) for concept in range(CONCEPTS)])
        torch.testing.assert_close(queue.sums[side].double(), sums, rtol=0, atol=2e-5)
    slow_prototypes = torch.stack([slow.prototype(concept) for concept in range(CONCEPTS)])
    torch.testing.assert_close(queue.prototypes().double(), slow_prototypes, rtol=0, atol=1e-3)


def pushed(size: int, batches: Sequence[int], seed: int = 0) -> tuple[FeatureQueue, SlowQueue]:
    queue, slow = FeatureQueue(size, CONCEPTS, WIDTH), SlowQueue(size)
    for number, pairs in enumerate(batches):
        rows = batch(pairs, seed + number)
        queue.push(*rows)
        slow.push(*rows)
    return queue, slow


@given(st.integers(1, 9), st.lists(st.integers(0, 25), max_size=12), st.integers(0, 1000))
@settings(deadline=None, max_examples=80)
def test_after_any_pushes_the_queue_is_what_a_slow_look_at_its_latest_rows_says(
    size: int, batches: list[int], seed: int
) -> None:
    queue, slow = pushed(size, batches, seed)
    assert_equals_slow(queue, slow)


@given(st.integers(1, 9), st.lists(st.integers(0, 8), max_size=4), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_the_nearest_text_is_the_queue_s_nearest_of_another_caption_or_the_text_itself(
    size: int, batches: list[int], seed: int
) -> None:
    queue, slow = pushed(size, batches, seed)
    _, text, _, captions = batch(7, seed + 50)
    nearest = torch.stack(
        [slow.nearest_text(row, int(caption)) for row, caption in zip(text, captions, strict=True)]
    )
    torch.testing.assert_close(
        queue.nearest_texts(text, captions).double(), nearest, rtol=0, atol=1e-6
    )


def test_many_steps_and_a_rebuild_change_nothing_beyond_rounding() -> None:
    queue, slow = pushed(50, [16] * 300)
    assert_equals_slow(queue, slow)
    before = copy.deepcopy(queue.state_dict())
    queue.rebuild()
    assert_equals_slow(queue, slow)
    for name, value in queue.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-4, msg=name)
    assert torch.equal(queue.members, before["members"]) and torch.equal(
        queue.features, before["features"]
    )


def test_a_rebuild_takes_off_what_rounding_has_added() -> None:
    queue, slow = pushed(30, [7] * 9)
    queue.sums += 0.5
    queue.total += 0.5
    with pytest.raises(AssertionError):
        assert_equals_slow(queue, slow)
    queue.rebuild()
    assert_equals_slow(queue, slow)


@given(st.integers(1, 60), st.lists(st.integers(1, 30), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_prototypes_are_of_unit_length_or_zero_where_too_few_or_all_pairs_name_the_concept(
    size: int, batches: list[int]
) -> None:
    queue, _ = pushed(size, batches)
    lengths = queue.prototypes().norm(dim=1)
    known = queue.is_known()
    assert torch.equal(known, (queue.members >= 2) & (queue.members < min(size, sum(batches))))
    assert bool((lengths[~known] == 0).all())
    for length in lengths[known].tolist():
        assert length == pytest.approx(1, abs=1e-5) or length < 1e-3, "opposite sides cancel"


def test_an_empty_queue_knows_nothing_and_divides_by_nothing() -> None:
    queue = FeatureQueue(8, CONCEPTS, WIDTH)
    assert not bool(queue.is_known().any()) and not bool(queue.prototypes().any())
    assert not bool(queue.means().any())


def test_the_queue_holds_no_gradient() -> None:
    queue = FeatureQueue(8, CONCEPTS, WIDTH)
    image, text, concepts, captions = batch(4, 0)
    queue.push(image.requires_grad_(), text.requires_grad_(), concepts, captions)
    assert not queue.prototypes().requires_grad and not any(
        mean.requires_grad for mean in queue.means()
    )


def test_a_queue_read_back_continues_identically() -> None:
    queue, _ = pushed(20, [8, 8, 8])
    other = FeatureQueue(20, CONCEPTS, WIDTH)
    other.load_state_dict({name: value.clone() for name, value in queue.state_dict().items()})
    for seed in range(50, 54):
        for one in (queue, other):
            one.push(*batch(7, seed))
    for name, value in queue.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert torch.equal(queue.prototypes(), other.prototypes())


def test_targets_weigh_known_concepts_by_idf_and_sum_to_one() -> None:
    idf = torch.tensor([3.0, 1.0, 2.0, 5.0])
    known = torch.tensor([True, True, True, False])
    concepts = torch.full((4, MAX_CONCEPTS_A_CAPTION), -1)
    concepts[0, :2] = torch.tensor([0, 1])
    concepts[1, :3] = torch.tensor([1, 2, 3])
    concepts[2, 0] = 3
    expected = torch.tensor([[0.75, 0.25, 0, 0], [0, 1 / 3, 2 / 3, 0], [0] * 4, [0] * 4])
    torch.testing.assert_close(concept_targets(concepts, idf, known), expected)
