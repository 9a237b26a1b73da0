"""Pictures that look the same are found, all of them, and pictures that do not are not."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.pairs import near_duplicates as module
from model.pairs.near_duplicates import (
    MAX_BITS,
    MAX_LEVELS,
    THUMB_BYTES,
    Signatures,
    earlier_duplicates,
    image_places,
    image_signature,
    looks_the_same,
    near_duplicates,
)
from tests.gears import rounds
from tests.golden import picture


def are_alike(left: Signatures, row: int, right: Signatures, other: int) -> bool:
    """The rule as it is written down, one pair at a time."""
    bits = bin(int(left.phash[row]) ^ int(right.phash[other])).count("1")
    levels = max(
        abs(int(a) - int(b)) for a, b in zip(left.thumb[row], right.thumb[other], strict=True)
    )
    return bits <= MAX_BITS and levels <= MAX_LEVELS


def crowded(images: int, seed: int) -> Signatures:
    """Signatures so close to each other that many pairs are alike and many more just are not."""
    rng = np.random.default_rng(seed)
    phash = np.full(images, 0x0123456789ABCDEF, np.uint64)
    for _ in range(5):
        flipped = np.uint64(1) << rng.integers(0, 64, images).astype(np.uint64)
        phash ^= np.where(rng.random(images) < 0.6, flipped, np.uint64(0))
    thumb = np.full((images, THUMB_BYTES), 100, np.uint8)
    for row in range(images):
        thumb[row, rng.integers(0, THUMB_BYTES, 4)] += rng.integers(0, 13, 4).astype(np.uint8)
    return Signatures(phash, thumb)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**32), st.integers(1, 200))
@settings(deadline=None, max_examples=rounds(15, 60))
def test_the_first_look_alike_of_every_image_is_found(
    left: int, right: int, seed: int, candidates: int
) -> None:
    ours, theirs = crowded(left, seed), crowded(right, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CANDIDATES", candidates)
        found = near_duplicates(ours, theirs)
    slow = [
        next((j for j in range(right) if are_alike(ours, i, theirs, j)), -1) for i in range(left)
    ]
    assert found.tolist() == slow


@given(st.integers(0, 5), st.integers(0, 2**32))
@settings(deadline=None, max_examples=rounds(20, 60))
def test_among_few_images_the_first_that_looks_the_same_is_found(images: int, seed: int) -> None:
    signatures = crowded(images, seed)
    slow = [
        next(j for j in range(i + 1) if are_alike(signatures, i, signatures, j))
        for i in range(images)
    ]
    assert earlier_duplicates(signatures).tolist() == slow


@pytest.mark.parametrize("bits", range(0, 65, 5))
def test_four_bits_apart_is_found_wherever_they_are_and_five_is_not(bits: int) -> None:
    phash, thumb = np.array([0], np.uint64), np.zeros((1, THUMB_BYTES), np.uint8)
    places = [(bits + step) % 64 for step in (0, 13, 27, 40)]
    for chosen, expected in ((places, 0), ([*places, (bits + 55) % 64], -1)):
        other = np.array([sum(1 << place for place in chosen)], np.uint64)
        assert near_duplicates(Signatures(phash, thumb), Signatures(other, thumb)).tolist() == [
            expected
        ]


def test_a_pair_is_put_up_for_confirmation_once_and_only_confirmed_ones_count() -> None:
    same = Signatures(np.zeros(3, np.uint64), np.zeros((3, THUMB_BYTES), np.uint8))
    asked: list[tuple[int, int]] = []

    def confirm(row: int, other: int) -> bool:
        asked.append((row, other))
        return other == 1

    assert near_duplicates(same, same, confirm).tolist() == [1, 1, 1]
    assert len(asked) == len(set(asked)) == 6
    assert earlier_duplicates(same, lambda row, other: False).tolist() == [0, 1, 2]


def test_thousands_of_one_placeholder_cost_no_more_than_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0
    colours = module.same_colours

    def counted(left: object, rows: np.ndarray, right: object, others: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(rows)
        return colours(left, rows, right, others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "same_colours", counted)
    images = 3000
    placeholder = Signatures(np.zeros(images, np.uint64), np.zeros((images, THUMB_BYTES), np.uint8))
    found = earlier_duplicates(placeholder)
    assert (found[1:] < np.arange(1, images)).all()
    assert compared <= 15 * module.NEIGHBOURS * images


@pytest.mark.parametrize(
    ("name", "options"),
    [("JPEG", {"quality": 30}), ("JPEG", {"quality": 85}), ("PNG", {}), ("WEBP", {"quality": 70})],
)
def test_a_copy_saved_again_is_the_same_image_and_another_is_not(
    name: str, options: dict[str, int]
) -> None:
    originals = [np.asarray(picture(224, 224, seed)) for seed in range(6)]
    copies = []
    for pixels in originals:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, name, **options)
        copies.append(np.asarray(Image.open(file).convert("RGB")))
    ours, theirs = (signatures_of(pictures) for pictures in (originals, copies))
    found = near_duplicates(
        theirs,
        ours,
        lambda row, other: looks_the_same(
            image_places(copies[row]), image_places(originals[other])
        ),
    )
    assert found.tolist() == list(range(6))


def signatures_of(pictures: list[np.ndarray]) -> Signatures:
    drawn = [image_signature(pixels) for pixels in pictures]
    thumbs = np.frombuffer(b"".join(each.thumb for each in drawn), np.uint8).reshape(
        -1, THUMB_BYTES
    )
    return Signatures(np.array([each.phash for each in drawn], np.uint64), thumbs)


def test_a_detail_that_a_thumbnail_does_not_hold_makes_another_image() -> None:
    plain = np.full((224, 224, 3), 240, np.uint8)
    other = plain.copy()
    other[100:108, 100:108] = 0
    assert looks_the_same(image_places(plain), image_places(plain))
    assert not looks_the_same(image_places(plain), image_places(other))
