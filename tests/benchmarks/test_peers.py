"""The peers of the input benchmark do what they stand for; its helpers measure what they say."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.support import peers
from benchmarks.support.measure import family_bytes, peak_bytes, print_bar, times_faster
from benchmarks.support.opening import write_sparse
from model.pairs.index import PairSource, index_pairs
from tests.golden import encoded, picture

# Sides whose crop leaves an even rest: EasyNLP rounds the middle of an odd one the other way.
SIZES = [(224, 224), (256, 256), (300, 224), (336, 448), (228, 400), (96, 96), (800, 800)]
pytestmark = pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def line_of(image: Image.Image) -> bytes:
    return b"red dress\t" + base64.b64encode(encoded(image, quality=90))


@pytest.mark.parametrize("size", SIZES)
def test_easynlps_way_gives_the_input_of_hugging_faces_processor(size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil

    image = picture(*size)
    line = base64.urlsafe_b64encode(encoded(image, "PNG")).decode()
    ours = peers.easynlp_input(f"red dress\t{line}\n")
    theirs = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (1, 3, 224, 224) and ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_all_ways_see_the_same_picture_within_two_levels(size: tuple[int, int]) -> None:
    line = line_of(picture(*size))
    theirs = peers.denormalised(peers.open_clip_input(line)) * 255
    easynlps = peers.denormalised(peers.easynlp_input(line.decode())[0]) * 255
    assert float((peers.our_input(line) - theirs).abs().max()) < 2.01
    assert (
        float((peers.denormalised(peers.our_normalised_input(line)) * 255 - theirs).abs().max())
        < 2.01
    )
    assert float((easynlps - theirs).abs().max()) < 0.01


def test_webdataset_yields_open_clips_inputs_in_order(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="the peer is optional")
    lines = [line_of(picture(256, 256, seed)) for seed in range(5)]
    peers.write_tar(lines, tmp_path / "shard.tar")
    inputs = list(peers.webdataset_inputs(tmp_path / "shard.tar"))
    assert len(inputs) == 5
    for line, theirs in zip(lines, inputs, strict=True):
        assert torch.equal(peers.open_clip_input(line), theirs)


def test_every_row_of_the_sparse_tsv_can_be_read(tmp_path: Path) -> None:
    lines = [line_of(picture(32, 32, seed)) for seed in range(3)]
    source = PairSource(tmp_path / "large.tsv", tmp_path / "large.parquet")
    write_sparse(source.tsv, source.profile, lines, rows=100, size=1_000_000)
    index = index_pairs([source])
    assert len(index) == 100
    assert 990_000 < source.tsv.stat().st_size < 1_000_000
    assert {index.read(row).image for row in range(100)} == {
        base64.b64decode(line[10:]) for line in lines
    }


def test_the_memory_of_a_family_is_that_of_a_process_and_its_children() -> None:
    hold = "import sys; held = bytearray(b'x' * 60_000_000)"
    child = f"{hold}; print('held', flush=True); sys.stdin.read()"
    parent = f"{hold}; import subprocess; subprocess.run([sys.executable, '-c', {child!r}])"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", parent], **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        held = family_bytes(process.pid)
    assert 120_000_000 < held < 170_000_000


def test_the_peak_of_a_process_is_seen_until_it_ends() -> None:
    hold = "import time; held = bytearray(b'x' * 60_000_000); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", hold], text=True) as process:
        assert peak_bytes(process) > 1_000_000
        assert process.returncode == 0


def test_a_bar_says_ok_or_short(capsys: pytest.CaptureFixture[str]) -> None:
    print_bar("ratio", 3.2, ">=", 3.2)
    print_bar("bytes", 301, "<=", 300)
    assert capsys.readouterr().out == "BAR ratio 3.2 >= 3.2 ok\nBAR bytes 301 <= 300 short\n"


def test_times_faster_is_the_median_of_the_rounds() -> None:
    assert times_faster(
        {"ours": [1.0, 2.0, 1.0], "peer": [3.0, 4.0, 9.0]}, "ours", "peer"
    ) == np.median([3, 2, 9])
