"""A batch holds each row's own image and ids, whoever loads it, and from whichever cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.batches import loading
from model.batches.crops import centre_crop, decode_image
from model.batches.loading import Batch, Crop, PairInput, load_batch, pair_input
from model.batches.prefetch import prefetch
from model.batches.sampler import Sampler
from model.errors import DataError
from model.pairs.index import index_pairs
from model.towers.towers import Towers
from tests.tiny import SIDE, TinyData, drawn_jpeg, profiled


@pytest.fixture
def pairs(towers: Towers, tiny_data: TinyData) -> PairInput:
    return pair_input(towers.input_spec, tiny_data.train_index())


def test_a_batch_holds_the_images_and_the_ids_of_its_rows(pairs: PairInput, towers: Towers) -> None:
    batch = load_batch(pairs, np.array([5, 0]), Crop(SIDE))
    captions = [pairs.index.caption(row) for row in (5, 0)]
    assert (
        torch.equal(batch.tokens, towers.tokenizer(captions)) and batch.tokens.dtype == torch.int64
    )
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (2, 3, SIDE, SIDE)
    for image, row in zip(batch.images, (5, 0), strict=True):
        decoded = decode_image(pairs.index.encoded_image(row))
        assert isinstance(decoded, torch.Tensor) and torch.equal(image, centre_crop(decoded, SIDE))


def test_an_image_that_cannot_be_decoded_any_more_is_named(
    pairs: PairInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.batches.decoded.MAX_SIDE", 1)
    with pytest.raises(
        DataError, match=r"train\.tsv line 4: too_many_pixels, although its profile accepted it"
    ):
        load_batch(pairs, np.array([3]), Crop(SIDE))


def test_an_image_over_the_decoder_s_own_limit_is_trained_on_where_the_config_allowed_it(
    pairs: PairInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_image, "__defaults__", (100,))
    assert len(load_batch(pairs, np.arange(3), Crop(SIDE)).images) == 3


def images_of_epoch(
    pairs: PairInput, crop: Crop, threads: int, batch_size: int
) -> dict[int, torch.Tensor]:
    rows = Sampler(len(pairs), batch_size, crop.seed).batches(crop.epoch)
    loaded = prefetch(rows, lambda rows: load_batch(pairs, rows, crop), threads)
    return {
        int(row): image
        for batch in loaded
        for row, image in zip(batch.rows, batch.images, strict=True)
    }


def test_a_pair_is_cut_the_same_whatever_the_threads_and_the_batches(pairs: PairInput) -> None:
    crop = Crop(SIDE, min_scale=0.3, flip=True, seed=5, epoch=2)
    expected = images_of_epoch(pairs, crop, threads=0, batch_size=16)
    assert len(expected) == 64
    for threads, batch_size in ((1, 16), (3, 16), (2, 8), (0, 4)):
        again = images_of_epoch(pairs, crop, threads, batch_size)
        assert all(torch.equal(again[row], image) for row, image in expected.items())


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 3}])
def test_another_seed_or_epoch_cuts_most_pairs_otherwise(
    pairs: PairInput, change: dict[str, int]
) -> None:
    values = {"min_scale": 0.3, "flip": True, "seed": 5, "epoch": 2}
    first, other = (
        load_batch(pairs, np.arange(64), Crop(SIDE, **given)) for given in (values, values | change)
    )
    assert sum(torch.equal(a, b) for a, b in zip(first.images, other.images, strict=True)) < 4


def assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.images, other.images) and torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("flip", [False, True])
def test_batches_from_caches_are_those_without_to_the_bit(
    pairs: PairInput, towers: Towers, tmp_path: Path, flip: bool
) -> None:
    crop, rows = Crop(SIDE, flip=flip, seed=5, epoch=2), np.random.default_rng(0).permutation(64)
    cached = pair_input(towers.input_spec, pairs.index, tmp_path, is_decoded=True)
    assert cached.decoded is not None and isinstance(cached.tokens, np.memmap)
    assert_same(load_batch(cached, rows, crop), load_batch(pairs, rows, crop))


def test_a_random_crop_is_cut_from_the_whole_image_even_where_crops_are_cached(
    pairs: PairInput, towers: Towers, tmp_path: Path
) -> None:
    crop = Crop(SIDE, min_scale=0.3, seed=5, epoch=2)
    cached = pair_input(towers.input_spec, pairs.index, tmp_path, is_decoded=True)
    assert_same(load_batch(cached, np.arange(64), crop), load_batch(pairs, np.arange(64), crop))


def test_with_both_caches_a_batch_of_centre_crops_reads_no_line(
    pairs: PairInput, towers: Towers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = pair_input(towers.input_spec, pairs.index, tmp_path, is_decoded=True)
    monkeypatch.setattr(loading, "decode_row", None)
    assert len(load_batch(cached, np.arange(64), Crop(SIDE)).images) == 64


def test_what_must_be_made_is_counted_once_and_then_found(
    towers: Towers, tiny_data: TinyData, tmp_path: Path
) -> None:
    index, made = tiny_data.valid_index(), list[tuple[str, int]]()
    for _ in range(2):
        pair_input(
            towers.input_spec,
            index,
            tmp_path,
            True,
            1,
            lambda what, rows: made.append((what, rows)),
        )
    assert made == [("tokens", 32), ("decoded images", 32)]


def test_caches_of_other_pairs_of_the_same_folder_are_not_mixed_up(
    towers: Towers, tmp_path: Path
) -> None:
    for name, caption in (("a", "red shirt"), ("b", "blue bag")):
        index = index_pairs(
            [profiled(tmp_path / f"{name}.tsv", [(caption, drawn_jpeg(caption, 1))] * 2)]
        )
        cached = pair_input(towers.input_spec, index, tmp_path / "cache", is_decoded=True)
        assert_same(
            load_batch(cached, np.arange(2), Crop(SIDE)),
            load_batch(pair_input(towers.input_spec, index), np.arange(2), Crop(SIDE)),
        )
