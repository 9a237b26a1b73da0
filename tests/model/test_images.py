"""Decoding agrees with Pillow, refuses what lies about itself, and crops as open_clip does."""

import io
import os
import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from model import images
from model.errors import FaultReason
from model.images import ImageFacts, centre_crop, decode_image, inspect_image, is_flat_below, random_crop
from model.pairs import parse_line, read_lines
from tests.golden import (
    encoded,
    gif_claiming,
    jpeg,
    jpeg_claiming,
    oriented_jpeg,
    picture,
    png_claiming,
    webp_claiming,
)

SHAPES = [(40, 32), (224, 224), (300, 200), (200, 301), (333, 1000), (1000, 333), (17, 90), (640, 480)]


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def decoded(data: bytes) -> torch.Tensor:
    image = decode_image(data)
    assert isinstance(image, torch.Tensor), image
    assert image.dtype == torch.uint8 and image.shape[0] == 3
    return image


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> int:
    assert one.shape == other.shape
    return int((one.int() - other.int()).abs().max())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "quality": 40}])
def test_the_fast_jpeg_path_is_within_two_levels_of_pillow(options: dict[str, int]) -> None:
    data = encoded(picture(75, 61), **options)
    assert images._plain_jpeg_size(data) == (61, 75)
    slow = images._decode_with_pillow(data, "JPEG")
    assert isinstance(slow, torch.Tensor)
    assert largest_difference(decoded(data), slow) <= 2


@pytest.mark.parametrize("container", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_come_back_to_the_bit(container: str) -> None:
    image = picture()
    options = {"lossless": True} if container == "WEBP" else {}
    assert largest_difference(decoded(encoded(image, container, **options)), pixels_of(image)) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    data = oriented_jpeg(orientation)
    with Image.open(io.BytesIO(data)) as image:
        expected = pixels_of(ImageOps.exif_transpose(image))
    assert largest_difference(decoded(data), expected) <= 2


def test_an_orientation_in_png_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(40, 32), "PNG", exif=exif)
    facts = inspect_image(data)
    assert isinstance(facts, ImageFacts) and facts.notes == ("rotated",)
    assert largest_difference(decoded(data), pixels_of(picture(40, 32).transpose(Image.Transpose.ROTATE_270))) == 0


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = picture().convert(mode)
    assert largest_difference(decoded(encoded(image, "PNG")), pixels_of(image)) == 0


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    red = decoded(encoded(image, quality=95))
    assert red[0].min() > 240 and red[1:].max() < 15


def test_sixteen_bit_is_scaled_and_not_clipped() -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = decoded(encoded(Image.fromarray(values), "PNG"))
    assert torch.equal(image[0], torch.arange(256).reshape(16, 16).to(torch.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    image = Image.new(mode, (20, 20), (0,) * len(mode))
    assert (decoded(encoded(image, "PNG")) == 255).all()


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    assert (decoded(encoded(image, "PNG", transparency=0)) == 255).all()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    first = picture(seed=1).convert("P")
    data = encoded(first, "GIF", save_all=True, append_images=[picture(seed=2)])
    assert largest_difference(decoded(data), pixels_of(first)) == 0


def test_malformed_exif_is_ignored_with_a_note() -> None:
    plain = jpeg()
    data = plain[:20] + b"\xff\xe1\x00\x10Exif\0\0II\x12\x01garb" + plain[20:]
    facts = inspect_image(data)
    assert isinstance(facts, ImageFacts) and facts.notes == ("bad_exif",)
    assert largest_difference(decoded(data), decoded(plain)) <= 2


def test_facts_are_read_from_the_header() -> None:
    assert inspect_image(jpeg(40, 32)) == ImageFacts("JPEG", 32, 40, "RGB", ())
    assert inspect_image(encoded(picture(40, 32), "PNG")[:60]) == ImageFacts("PNG", 32, 40, "RGB", ())


@pytest.mark.parametrize("claiming", [jpeg_claiming, png_claiming, gif_claiming, webp_claiming])
def test_a_bomb_is_refused_before_its_pixels_are_allocated(claiming: Callable[[int, int], bytes]) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for side in (5_001, 9_000, 15_000, 16_000):
        assert decode_image(claiming(side, side)) is FaultReason.TOO_MANY_PIXELS
        assert inspect_image(claiming(side, side)) is FaultReason.TOO_MANY_PIXELS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


def test_limits_are_inclusive() -> None:
    data = jpeg(40, 32)
    assert isinstance(inspect_image(data, max_pixels=1280, min_side=32), ImageFacts)
    assert inspect_image(data, max_pixels=1279) is FaultReason.TOO_MANY_PIXELS
    assert inspect_image(data, min_side=33) is FaultReason.TOO_SMALL


def test_a_picture_cut_anywhere_is_truncated_and_never_an_image() -> None:
    for container in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        data = encoded(picture(), container)
        for length in [*range(12, len(data), 37), len(data) - 2, len(data) - 1]:
            assert isinstance(decode_image(data[:length]), FaultReason), (container, length)


def test_no_exception_escapes_from_mutated_pictures() -> None:
    rng = random.Random(0)
    sources = [jpeg(), encoded(picture(), progressive=True), oriented_jpeg(5)]
    sources += [encoded(picture(), container) for container in ("PNG", "GIF", "WEBP", "BMP")]
    for _ in range(500):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), 700))] = rng.randrange(256)
        data = data[: rng.randrange(len(data))] if rng.random() < 0.3 else data
        for verdict in (inspect_image(bytes(data)), decode_image(bytes(data), max_pixels=100_000)):
            assert isinstance(verdict, torch.Tensor | ImageFacts | FaultReason)


def test_both_roads_give_the_same_picture_of_damaged_jpegs() -> None:
    rng, agreed = random.Random(1), 0
    for _ in range(200):
        data = bytearray(jpeg())
        data[rng.randrange(200, len(data) - 2)] = rng.randrange(255)
        fast = decode_image(bytes(data), max_pixels=100_000)
        slow = images._decode_with_pillow(bytes(data), "JPEG")
        if isinstance(fast, torch.Tensor) and isinstance(slow, torch.Tensor):
            assert largest_difference(fast, slow) <= 2
            agreed += 1
    assert agreed > 50


def test_flat_lower_rows_are_told_from_a_picture() -> None:
    image = decoded(jpeg(40, 32)).clone()
    assert not is_flat_below(image)
    image[:, 30:] = 128
    assert not is_flat_below(image)
    image[:, 27:] = 128
    assert is_flat_below(image)


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
    for shape, scale, flip in [((40, 32), 0.2, False), ((10, 200), 0.9, True), ((64, 64), 1.0, True)]:
        generator = torch.Generator().manual_seed(1)
        random_crop(pixels_of(picture(*shape)), 32, scale, flip, generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


@pytest.mark.parametrize("shape", [(100, 100), (90, 120), (10, 300), (300, 1), (1, 1)])
def test_random_boxes_lie_inside_and_keep_their_share(shape: tuple[int, int]) -> None:
    height, width = shape
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        box = images._random_box(height, width, 0.5, torch.rand(24, generator=generator).tolist())
        assert 0 <= box.top <= box.top + box.height <= height and box.height >= 1
        assert 0 <= box.left <= box.left + box.width <= width and box.width >= 1
        if shape == (100, 100):
            assert box.height * box.width >= 0.49 * height * width
            assert 0.73 < box.width / box.height < 1.37


def test_flip_mirrors_about_half_the_crops() -> None:
    image = pixels_of(picture(64, 64))
    plain, generator = centre_crop(image, 64), torch.Generator().manual_seed(0)
    crops = [random_crop(image, 64, 1.0, True, generator) for _ in range(100)]
    mirrored = sum(torch.equal(crop, plain.flip(2)) for crop in crops)
    assert mirrored + sum(torch.equal(crop, plain) for crop in crops) == 100
    assert 30 < mirrored < 70


def test_a_jpeg_header_that_ends_early_is_left_to_pillow() -> None:
    data = jpeg()
    sof = data.index(b"\xff\xc0")
    assert images._plain_jpeg_size(data[: sof + 6] + b"\xff\xd9") is None
    assert images._plain_jpeg_size(b"\xff\xd8\xff\xd9") is None
    zero_height = data[: sof + 5] + struct.pack(">H", 0) + data[sof + 7 :]
    assert images._plain_jpeg_size(zero_height) is None


@pytest.mark.real
@pytest.mark.skipif("REAL_PAIRS" not in os.environ, reason="REAL_PAIRS names no folder of real pairs")
def test_real_pictures_are_decoded_and_cropped_as_open_clip_does() -> None:
    tsv = Path(os.environ["REAL_PAIRS"]) / "fashion-products" / "test.tsv"
    for line in list(read_lines(tsv, 16_000_000))[::20]:
        pair = parse_line(line.data or b"")
        assert not isinstance(pair, FaultReason) and pair.image is not None
        with Image.open(io.BytesIO(pair.image)) as image:
            expected = open_clip_crop(image, 160)
        assert largest_difference(centre_crop(decoded(pair.image), 160), expected) <= 2
