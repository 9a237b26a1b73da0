"""Images are cropped as open_clip does, and augmented as a pure function of the generator."""

import io
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.batches import crops
from model.batches.crops import centre_crop, decode_image, random_crop
from model.errors import FaultReason
from model.pairs.tsv import parse_line, read_lines
from tests.golden import picture

SHAPES = [
    (40, 32),
    (224, 224),
    (300, 200),
    (200, 301),
    (333, 1000),
    (1000, 333),
    (17, 90),
    (640, 480),
]


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> int:
    assert one.shape == other.shape
    return int((one.int() - other.int()).abs().max())


def open_clip_crop(image: Image.Image, side: int) -> torch.Tensor:
    from open_clip.transform import image_transform

    transform = image_transform(side, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return (transform(image) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [32, 224])
def test_centre_crop_is_within_two_levels_of_open_clip(shape: tuple[int, int], side: int) -> None:
    image = picture(*shape)
    cropped = centre_crop(pixels_of(image), side)
    assert cropped.dtype == torch.uint8 and cropped.is_contiguous()
    assert largest_difference(cropped, open_clip_crop(image, side)) <= 2


@pytest.mark.parametrize("shape", [(20, 200), (200, 20), (19, 1001), (1500, 33)])
def test_a_long_strip_is_cropped_as_open_clip_does(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    assert largest_difference(centre_crop(pixels_of(image), 64), open_clip_crop(image, 64)) <= 2


def test_the_longest_strip_is_cropped_without_its_resized_whole() -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert centre_crop(torch.zeros(3, 16, 16_384, dtype=torch.uint8), 224).shape == (3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


@pytest.mark.parametrize("shape", SHAPES)
def test_random_crop_without_scale_is_the_centre_crop(shape: tuple[int, int]) -> None:
    image = pixels_of(picture(*shape))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(random_crop(image, 64, 1.0, False, generator), centre_crop(image, 64))


def test_random_crop_is_a_pure_function_of_the_generator() -> None:
    image = pixels_of(picture(120, 90))
    one, other = (torch.Generator().manual_seed(7) for _ in range(2))
    first = [random_crop(image, 64, 0.5, True, one) for _ in range(5)]
    again = [random_crop(image, 64, 0.5, True, other) for _ in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(one.get_state(), other.get_state())


def test_random_crop_draws_the_same_count_whatever_it_does() -> None:
    states = []
    for shape, scale, flip in [
        ((40, 32), 0.2, False),
        ((10, 200), 0.9, True),
        ((64, 64), 1.0, True),
    ]:
        generator = torch.Generator().manual_seed(1)
        random_crop(pixels_of(picture(*shape)), 32, scale, flip, generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


@pytest.mark.parametrize("shape", [(100, 100), (90, 120), (10, 300), (300, 1), (1, 1)])
def test_random_boxes_lie_inside_and_keep_their_share(shape: tuple[int, int]) -> None:
    height, width = shape
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        draws = torch.rand(24, generator=generator).tolist()
        top, left, tall, wide = crops._random_box(height, width, 0.5, draws)
        assert 0 <= top <= top + tall <= height and tall >= 1
        assert 0 <= left <= left + wide <= width and wide >= 1
        if shape == (100, 100):
            assert tall * wide >= 0.49 * height * width
            assert 0.73 < wide / tall < 1.37


def test_flip_mirrors_about_half_the_crops() -> None:
    image = pixels_of(picture(64, 64))
    plain, generator = centre_crop(image, 64), torch.Generator().manual_seed(0)
    crops = [random_crop(image, 64, 1.0, True, generator) for _ in range(100)]
    mirrored = sum(torch.equal(crop, plain.flip(2)) for crop in crops)
    assert mirrored + sum(torch.equal(crop, plain) for crop in crops) == 100
    assert 30 < mirrored < 70


@pytest.mark.real
@pytest.mark.skipif(
    "REAL_PAIRS" not in os.environ, reason="REAL_PAIRS names no folder of real pairs"
)
@pytest.mark.timeout(600)
def test_all_real_images_are_decoded_and_cropped_as_open_clip_does() -> None:
    tsvs = sorted(Path(os.environ["REAL_PAIRS"]).glob("*/*.tsv"))
    assert tsvs
    for line in (line for tsv in tsvs for line in read_lines(tsv, 16_000_000)):
        pair = parse_line(line.data or b"")
        assert not isinstance(pair, FaultReason) and pair.image is not None
        ours = decode_image(pair.image)
        assert isinstance(ours, torch.Tensor)
        with Image.open(io.BytesIO(pair.image)) as image:
            assert largest_difference(centre_crop(ours, 160), open_clip_crop(image, 160)) <= 2
