"""Decoding agrees with Pillow and refuses what lies about itself."""

import io
import random
import resource
import struct
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.errors import FaultReason
from model.pairs import images
from model.pairs.arrays import Pixels
from model.pairs.images import (
    ImageFacts,
    Preview,
    decode_rgb,
    inspect_image,
    preview_image,
)
from tests.gears import rounds
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


def pixels_of(image: Image.Image) -> Pixels:
    return np.array(image.convert("RGB"))


def decoded(data: bytes) -> Pixels:
    image = decode_rgb(data)
    assert isinstance(image, np.ndarray), image
    assert image.dtype == np.uint8 and image.shape[2] == 3
    return image


def largest_difference(one: Pixels, other: Pixels) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "quality": 40}]
)
def test_the_fast_jpeg_path_is_within_two_levels_of_pillow(options: dict[str, int]) -> None:
    data = encoded(picture(75, 61), **options)
    assert images._plain_jpeg_size(data) == (61, 75)
    slow, fast = images._decode_with_pillow(data, "JPEG"), decode_rgb(data)
    assert isinstance(slow, np.ndarray) and isinstance(fast, np.ndarray)
    assert np.abs(fast.astype(int) - slow).max() <= 2


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
    assert (
        largest_difference(
            decoded(data), pixels_of(picture(40, 32).transpose(Image.Transpose.ROTATE_270))
        )
        == 0
    )


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = picture().convert(mode)
    assert largest_difference(decoded(encoded(image, "PNG")), pixels_of(image)) == 0


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    red = decoded(encoded(image, quality=95))
    assert red[..., 0].min() > 240 and red[..., 1:].max() < 15


def test_sixteen_bit_is_scaled_and_not_clipped() -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = decoded(encoded(Image.fromarray(values), "PNG"))
    assert np.array_equal(image[..., 0], np.arange(256).reshape(16, 16))


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
    assert inspect_image(encoded(picture(40, 32), "PNG")[:60]) == ImageFacts(
        "PNG", 32, 40, "RGB", ()
    )


@pytest.mark.parametrize("claiming", [jpeg_claiming, png_claiming, gif_claiming, webp_claiming])
def test_a_bomb_is_refused_before_its_pixels_are_allocated(
    claiming: Callable[[int, int], bytes],
) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for side in (5_001, 9_000, 15_000, 16_000):
        assert decode_rgb(claiming(side, side)) is FaultReason.TOO_MANY_PIXELS
        assert inspect_image(claiming(side, side)) is FaultReason.TOO_MANY_PIXELS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


def test_limits_are_inclusive() -> None:
    data = jpeg(40, 32)
    assert isinstance(inspect_image(data, max_pixels=1280, min_side=32), ImageFacts)
    assert inspect_image(data, max_pixels=1279) is FaultReason.TOO_MANY_PIXELS
    assert inspect_image(data, min_side=33) is FaultReason.TOO_SMALL


def test_an_image_cut_anywhere_is_truncated_and_never_decoded() -> None:
    for container in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        data = encoded(picture(), container)
        for length in [*range(12, len(data), 37), len(data) - 2, len(data) - 1]:
            assert isinstance(decode_rgb(data[:length]), FaultReason), (container, length)


def test_no_exception_escapes_from_mutated_images() -> None:
    rng = random.Random(0)
    sources = [jpeg(), encoded(picture(), progressive=True), oriented_jpeg(5)]
    sources += [encoded(picture(), container) for container in ("PNG", "GIF", "WEBP", "BMP")]
    for _ in range(rounds(200, 500)):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), 700))] = rng.randrange(256)
        data = data[: rng.randrange(len(data))] if rng.random() < 0.3 else data
        for verdict in (inspect_image(bytes(data)), decode_rgb(bytes(data), max_pixels=100_000)):
            assert isinstance(verdict, np.ndarray | ImageFacts | FaultReason)


def mutated_jpegs(count: int) -> Iterator[bytes]:
    rng = random.Random(1)
    sources = [jpeg(), jpeg(200, 300), encoded(picture(120, 90), progressive=True)]
    for _ in range(count):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(rng.choice((20, 200)), len(data) - 2)] = rng.randrange(255)
        yield bytes(data)


def test_both_roads_give_the_same_pixels_of_damaged_jpegs() -> None:
    agreed, count = 0, rounds(40, 200)
    for data in mutated_jpegs(count):
        fast, slow = decode_rgb(data, max_pixels=100_000), images._decode_with_pillow(data, "JPEG")
        if isinstance(fast, np.ndarray) and isinstance(slow, np.ndarray):
            assert np.abs(fast.astype(int) - slow).max() <= 2
            agreed += 1
    assert agreed > count / 4


def test_a_preview_is_refused_when_and_only_when_decoding_is() -> None:
    verdicts, count = Counter(), rounds(100, 1000)
    for data in mutated_jpegs(count):
        preview, pixels = (
            preview_image(data, max_pixels=100_000),
            decode_rgb(data, max_pixels=100_000),
        )
        assert isinstance(preview, FaultReason) == isinstance(pixels, FaultReason)
        verdicts[isinstance(pixels, FaultReason)] += 1
    assert min(verdicts.values()) > 0.03 * count


def preview(data: bytes) -> Preview:
    found = preview_image(data)
    assert isinstance(found, Preview), found
    return found


def test_a_preview_is_smaller_where_that_is_faster_and_never_under_the_side_asked_for() -> None:
    sizes = {
        (224, 224): (112, 112),
        (800, 600): (200, 150),
        (100, 90): (100, 90),
        (40, 32): (40, 32),
    }
    for (height, width), expected in sizes.items():
        found = preview_image(jpeg(height, width), preview_side=96)
        assert isinstance(found, Preview) and found.pixels.shape[:2] in (expected, (height, width))
    assert preview(jpeg(224, 224)).pixels.shape[:2] == (28, 28)
    assert preview(jpeg(100, 20)).pixels.shape[:2] == (100, 20)


def test_damage_inside_a_jpeg_is_noted() -> None:
    data = jpeg(200, 200)
    middle = len(data) // 2
    assert "damaged" in preview(data[:middle] + data[middle + 100 :]).facts.notes
    assert "damaged" not in preview(jpeg(200, 200)).facts.notes


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded() -> None:
    data = encoded(picture(), progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    many = data[:-2] + scan * 200 + data[-2:]
    assert (
        inspect_image(many)
        is decode_rgb(many)
        is preview_image(many)
        is FaultReason.TOO_MANY_PIXELS
    )


def test_flat_lower_rows_are_noticed() -> None:
    image = decode_rgb(jpeg(40, 32))
    assert isinstance(image, np.ndarray) and not images._is_flat_below(image)
    image[30:] = 128
    assert not images._is_flat_below(image)
    image[27:] = 128
    assert images._is_flat_below(image)


def test_a_jpeg_header_that_ends_early_is_left_to_pillow() -> None:
    data = jpeg()
    sof = data.index(b"\xff\xc0")
    assert images._plain_jpeg_size(data[: sof + 6] + b"\xff\xd9") is None
    assert images._plain_jpeg_size(b"\xff\xd8\xff\xd9") is None
    zero_height = data[: sof + 5] + struct.pack(">H", 0) + data[sof + 7 :]
    assert images._plain_jpeg_size(zero_height) is None
