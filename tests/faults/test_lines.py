"""Every line of a shop's feed gets one verdict, the same from the profile, the export and the
training."""

import base64
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.batches.crops import decode_image
from model.config.sections import DataConfig
from model.errors import FaultReason
from model.pairs import images
from model.pairs.images import MAX_SIDE, Preview, decode_rgb, inspect_image, preview_image
from model.pairs.profile import ProfileSummary, profile_files, read_profile, write_profile
from model.pairs.tsv import BOM, parse_line
from tests.fuzz import verdict
from tests.gears import rounds
from tests.golden import (
    Golden,
    encoded,
    golden_lines,
    jpeg,
    oriented_jpeg,
    picture,
    png_of_16_bits,
    without_segment,
)
from tests.mutations import IMAGE_MUTATIONS, Mutator, other_encodings

ROOT = Path(__file__).parents[2]
LIMITS = DataConfig()
GOLDEN = golden_lines()


def kind_of(golden: Golden) -> str:
    return f"input: {golden.fault or ' '.join(sorted(golden.notes)) or 'accepted unchanged'}"


def profiled(
    folder: Path, data: bytes, limits: DataConfig = LIMITS
) -> tuple[ProfileSummary, list[dict[str, object]]]:
    tsv, files = folder / "test.tsv", profile_files(folder, "test")
    tsv.write_bytes(data)
    summary = write_profile(tsv, files, limits)
    return summary, read_profile(files.table).to_pylist()


def line_of(caption: str, image: bytes) -> bytes:
    return caption.encode() + b"\t" + base64.b64encode(image)


@pytest.mark.parametrize(
    "golden",
    [pytest.param(one, id=one.name, marks=pytest.mark.faults(kind=kind_of(one))) for one in GOLDEN],
)
def test_a_golden_line_is_judged_alike_by_profile_export_and_training(
    golden: Golden, tmp_path: Path
) -> None:
    _, (row,) = profiled(tmp_path, golden.raw + b"\n")
    assert row["fault"] == golden.fault == verdict(golden.raw)
    if golden.fault is not None:
        quarantined = profile_files(tmp_path, "test").quarantine.read_bytes()
        assert quarantined == b"1\t%s\t%s\n" % (golden.fault.encode(), golden.raw)
        return
    assert set(str(row["notes"]).split()) == golden.notes
    pair = parse_line(golden.raw)
    assert not isinstance(pair, FaultReason) and pair.image is not None
    assert isinstance(decode_image(pair.image, max_pixels=MAX_SIDE**2), torch.Tensor)


@pytest.mark.faults(kind="input: all golden lines in one file", trials=len(GOLDEN))
def test_golden_lines_in_one_file_keep_their_verdicts(tmp_path: Path) -> None:
    summary, rows = profiled(tmp_path, b"".join(golden.raw + b"\n" for golden in GOLDEN))
    assert [row["fault"] for row in rows] == [golden.fault for golden in GOLDEN]
    assert summary.quarantined == sum(golden.fault is not None for golden in GOLDEN)


# --- what only a file shows ---


@pytest.mark.faults(kind="input: bom")
def test_a_bom_is_cut_from_the_first_caption(tmp_path: Path) -> None:
    plain = line_of("red dress", jpeg()) + b"\n"
    _, (row,) = profiled(tmp_path, BOM + plain)
    _, (expected,) = profiled(tmp_path, plain)
    assert row == expected | {"offset": 3, "notes": "bom"}


@pytest.mark.faults(kind="input: line_too_long", trials=2)
def test_a_line_over_the_limit_is_put_aside_and_one_of_10_mb_is_fine(tmp_path: Path) -> None:
    large = line_of("a large picture", encoded(picture(1600, 1600), "BMP"))
    assert 10_000_000 < len(large) < LIMITS.max_line_bytes
    too_long = large + b"A" * (LIMITS.max_line_bytes + 1 - len(large))
    _, rows = profiled(
        tmp_path, large + b"\n" + too_long + b"\n" + line_of("red dress", jpeg()) + b"\n"
    )
    assert [row["fault"] for row in rows] == [None, "line_too_long", None]


@pytest.mark.faults(kind="input: duplicates", trials=3)
def test_duplicates_are_kept_and_known_by_their_hashes(tmp_path: Path) -> None:
    same = line_of("red dress", jpeg(seed=1)) + b"\n"
    other_words = line_of("a dress in red", jpeg(seed=1)) + b"\n"
    spelled = line_of("Red Dress!", encoded(picture(seed=1), quality=60)) + b"\n"
    summary, rows = profiled(tmp_path, same + same + other_words + spelled)
    assert summary.accepted == 4
    captions, pictures, keys = (
        [row[name] for row in rows] for name in ("caption_hash", "image_hash", "caption_key")
    )
    assert (
        captions[0] == captions[1] != captions[2]
        and pictures[0] == pictures[1] == pictures[2] != pictures[3]
    )
    assert keys[0] == keys[3] != keys[2]
    distance = int(str(rows[0]["image_phash"])) ^ int(str(rows[3]["image_phash"]))
    assert distance.bit_count() <= 4


# --- pictures that need judgement come out right ---


def decoded(data: bytes) -> np.ndarray:
    pixels = decode_rgb(data)
    assert isinstance(pixels, np.ndarray), pixels
    return pixels.astype(int)


@pytest.mark.faults(kind="input: sixteen_bit", trials=2)
def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16, 1)
    assert (decoded(encoded(Image.fromarray(values), "PNG")) == expected).all()
    assert (decoded(png_of_16_bits(np.repeat(values[..., None], 3, axis=2))) == expected).all()


@pytest.mark.faults(kind="input: alpha")
@pytest.mark.parametrize("container", ["PNG", "WEBP"])
def test_half_clear_pictures_lie_on_white(container: str) -> None:
    image = Image.new("RGBA", (20, 20), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 20))
    image.paste((0, 0, 0, 128), (10, 10, 20, 20))
    pixels = decoded(
        encoded(
            image, container, **({"lossless": True, "exact": True} if container == "WEBP" else {})
        )
    )
    assert (pixels[:, :10] == 255).all() and (pixels[:10, 10:] == (200, 0, 0)).all()
    assert (abs(pixels[10:, 10:] - 127) <= 1).all()


@pytest.mark.faults(kind="input: cmyk", trials=2)
def test_cmyk_is_read_as_adobe_writes_it_whether_it_says_so_or_not() -> None:
    inverted = encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), quality=95)
    for data in (inverted, without_segment(inverted, b"\xff\xee")):
        pixels = decoded(data)
        assert pixels[..., 0].min() > 240 and pixels[..., 1:].max() < 15


@pytest.mark.faults(kind="input: rotated")
@pytest.mark.parametrize("turn", range(2, 9))
def test_every_orientation_comes_out_upright(turn: int) -> None:
    upright = np.zeros((64, 32, 3), dtype=np.uint8)
    upright[:32, :16], upright[32:, :16], upright[:32, 16:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo = {6: 8, 8: 6}.get(turn, turn)
    stored = Image.fromarray(upright).transpose(images.ORIENTATIONS[undo])
    pixels = decoded(oriented_jpeg(turn, stored))
    assert pixels.shape == upright.shape
    assert abs(pixels[16::32, 8::16] - upright[16::32, 8::16]).max() < 20


# --- bombs ---

BOMBS = [
    golden.name
    for golden in GOLDEN
    if golden.fault is FaultReason.TOO_MANY_PIXELS
    or "20 MB" in golden.name
    or "10,000" in golden.name
]
MEASURED = """
import json, resource, sys
from model.pairs.images import decode_rgb, inspect_image, preview_image
from tests.golden import golden_lines, jpeg
from model.pairs.tsv import parse_line

wanted = json.loads(sys.argv[1])
images = [parse_line(golden.raw).image for golden in golden_lines() if golden.name in wanted]
for judge in (inspect_image, decode_rgb, preview_image):
    judge(jpeg())
open("/proc/self/clear_refs", "w").write("5")
high = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = high()
for image in images:
    for judge in (inspect_image, decode_rgb, preview_image):
        judge(image)
print(high() - before)
"""


@pytest.mark.faults(kind="input: bombs in 50 MB", trials=len(BOMBS))
def test_bombs_take_no_memory() -> None:
    command = [sys.executable, "-c", MEASURED, json.dumps(BOMBS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(BOMBS) >= 10 and int(done.stdout) < 50_000, f"{done.stdout} kB"


# --- mutated lines ---

MUTATED = rounds(1000, 4000)


@pytest.mark.faults(kind="input: mutated pictures, three decoders", trials=MUTATED)
def test_three_decoders_agree_on_mutated_jpegs() -> None:
    rng, plain = random.Random(5), [jpeg(), jpeg(200, 300), jpeg(120, 90, 3)]
    sources = [*plain, *plain, encoded(picture(120, 90), progressive=True), oriented_jpeg(6)]
    good = 0
    for _ in range(MUTATED):
        data = rng.choice(sources)
        for _ in range(rng.choice((1, 1, 2))):
            data = rng.choice(IMAGE_MUTATIONS)(data, rng)
        preview, pixels = preview_image(data, 1_000_000), decode_rgb(data, 1_000_000)
        facts = inspect_image(data, 1_000_000)
        slow = (
            facts
            if isinstance(facts, FaultReason)
            else images._decode_with_pillow(data, facts.format)
        )
        reasons = [
            None if isinstance(one, Preview | np.ndarray) else one
            for one in (preview, pixels, slow)
        ]
        assert len(set(reasons)) == 1, reasons
        if isinstance(pixels, np.ndarray) and isinstance(slow, np.ndarray):
            assert np.abs(pixels.astype(int) - slow).max() <= 2
            good += 1
    assert 0.1 * MUTATED < good < 0.9 * MUTATED


@pytest.mark.faults(kind="input: mutated lines, profile and export", trials=1000)
def test_mutated_lines_are_judged_alike_by_profile_and_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REAL_PAIRS", raising=False)
    lines = b"\n".join(Mutator(seed=3).lines(1000)).split(b"\n")
    _, rows = profiled(tmp_path, b"\n".join(lines) + b"\n")
    assert [row["fault"] for row in rows] == [verdict(line) for line in lines]
    accepted = sum(row["fault"] is None for row in rows)
    assert 200 < accepted < len(lines) - 200


@pytest.mark.faults(kind="input: every encoding", trials=len(other_encodings(jpeg())))
def test_every_encoding_of_a_picture_is_decoded_to_about_the_same_colours() -> None:
    for data in other_encodings(jpeg(60, 40)):
        preview = preview_image(data)
        assert isinstance(preview, Preview) and verdict(line_of("red dress", data)) is None
