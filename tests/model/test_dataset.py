"""A pair is read where its profile says it lies, and every order and every cut is a pure function of the seed."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import DataConfig
from model.dataset import (
    Crop,
    PairIndex,
    PairSource,
    carve_valid,
    epoch_order,
    index_pairs,
    load_batch,
    prefetch,
    without_leaks,
)
from model.errors import DataError
from model.pixels import centre_crop, decode_image
from model.profiles import profile_files, write_profile
from tests.tiny import TinyData, drawn_jpeg, profiled

FAULTY = [b"no tab here", b"red dress\tAAAA", b"\xff\t/9j/"]
NAMES = ("red shirt", "blue bag", "white shoe")


def index_of(captions: list[int], images: list[int]) -> PairIndex:
    """Return an index that knows only which captions and images are the same."""
    rows = np.arange(len(captions))
    hashes = (
        np.asarray([f"{kind}{number}" for number in numbers], dtype=np.str_)
        for kind, numbers in (("c", captions), ("i", images))
    )
    return PairIndex((Path("train.tsv"),), np.zeros_like(rows), rows + 1, rows, rows, *hashes)


@given(st.integers(0, 200), st.integers(1, 40), st.integers(0, 2**63 - 1), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_an_epoch_is_full_batches_without_a_repeat_and_a_pure_function(
    pairs: int, batch_size: int, seed: int, epoch: int
) -> None:
    batches = epoch_order(pairs, batch_size, seed, epoch)
    assert [len(batch) for batch in batches] == [batch_size] * (pairs // batch_size)
    rows = [int(row) for batch in batches for row in batch]
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(pairs))
    assert [batch.tolist() for batch in epoch_order(pairs, batch_size, seed, epoch)] == [b.tolist() for b in batches]


def test_an_epoch_reads_every_pair_and_orders_differ_by_epoch_and_by_seed() -> None:
    orders = {(seed, epoch): np.concatenate(epoch_order(60, 20, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert all(sorted(order.tolist()) == list(range(60)) for order in orders.values())
    assert len({tuple(order.tolist()) for order in orders.values()}) == 4
    left_out = [set(range(50)) - set(np.concatenate(epoch_order(50, 20, 0, epoch)).tolist()) for epoch in range(6)]
    assert len(set(map(frozenset, left_out))) > 1, "not always the same pairs are left out"


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=150)
def test_no_caption_and_no_image_is_in_both_train_and_carved_valid(
    pairs: list[tuple[int, int]], share: float, seed: int
) -> None:
    index = index_of([caption for caption, _ in pairs], [image for _, image in pairs])
    train, valid = carve_valid(index, share, seed)
    assert not set(train.caption_hash) & set(valid.caption_hash)
    assert not set(train.image_hash) & set(valid.image_hash)
    assert sorted([*train.line, *valid.line]) == list(range(1, len(pairs) + 1))
    assert len(valid) <= round(share * len(pairs))
    again = carve_valid(index, share, seed)
    assert [part.line.tolist() for part in again] == [train.line.tolist(), valid.line.tolist()]


def test_pairs_whose_caption_or_image_is_in_test_are_left_out_and_no_others() -> None:
    train, test = index_of([1, 2, 3, 4], [10, 20, 30, 40]), index_of([2, 9], [90, 40])
    assert without_leaks(train, test).line.tolist() == [train.line[0], train.line[2]]


def test_the_wanted_share_is_carved_where_pairs_are_distinct_and_another_seed_carves_others() -> None:
    index = index_of(list(range(100)), list(range(100)))
    carved = [carve_valid(index, 0.1, seed)[1] for seed in (0, 1)]
    assert [len(valid) for valid in carved] == [10, 10]
    assert carved[0].line.tolist() != carved[1].line.tolist()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_loading_ahead_keeps_the_order(threads: int) -> None:
    assert list(prefetch(range(50), lambda item: item * item, threads)) == [item * item for item in range(50)]
    assert list(prefetch([], lambda item: item, threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_loading_goes_ahead_by_the_depth_and_no_further(threads: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    loaded = prefetch(items(), lambda item: item, threads, depth=4)
    assert next(loaded) == 0
    assert taken == [0, 1, 2, 3, 4]
    loaded.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_loading_raises_arrives_in_its_place(threads: int) -> None:
    def load(item: int) -> int:
        if item == 7:
            raise DataError("line 7: bad_base64")
        return item

    seen = []
    with pytest.raises(DataError, match="line 7"):
        for item in prefetch(range(50), load, threads):
            seen.append(item)
    assert seen == list(range(7))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_stopping_early_leaves_no_thread_behind(threads: int) -> None:
    before = threading.active_count()
    loaded = prefetch(iter(int, 1), lambda item: item, threads)
    for _ in range(3):
        next(loaded)
    loaded.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.fixture
def source(tmp_path: Path) -> PairSource:
    """Return three good pairs after three faulty lines."""
    return profiled(tmp_path / "train.tsv", [(name, drawn_jpeg(name, 5)) for name in NAMES], FAULTY)


def test_each_row_reads_its_own_pair_and_faulty_lines_have_no_row(source: PairSource) -> None:
    index = index_pairs([source])
    assert index.line.tolist() == [4, 5, 6]
    assert [index.caption(row) for row in range(3)] == list(NAMES)
    assert [index.encoded_image(row) for row in range(3)] == [drawn_jpeg(name, 5) for name in NAMES]
    assert index.where(1) == f"{source.tsv} line 5"


def test_files_follow_each_other_and_a_choice_of_rows_keeps_its_order(source: PairSource, tiny_data: TinyData) -> None:
    index = index_pairs([source, tiny_data.valid])
    assert len(index) == 3 + 32 and index.file.tolist() == [0] * 3 + [1] * 32
    chosen = index.take(np.array([4, 1]))
    assert [chosen.caption(0), chosen.caption(1)] == [tiny_data.valid_index().caption(1), "blue bag"]
    batch = load_batch(chosen, np.array([1, 0]), Crop(16))
    assert batch.captions == ["blue bag", chosen.caption(0)]
    decoded = decode_image(drawn_jpeg("blue bag", 5))
    assert isinstance(decoded, torch.Tensor) and torch.equal(batch.images[0], centre_crop(decoded, 16))
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (2, 3, 16, 16)


def test_a_file_without_its_final_newline_is_the_file_that_was_profiled(source: PairSource) -> None:
    source.tsv.write_bytes(source.tsv.read_bytes().removesuffix(b"\n"))
    write_profile(source.tsv, profile_files(source.tsv.parent, source.tsv.stem), DataConfig())
    assert index_pairs([source]).caption(2) == NAMES[2]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-50],
        lambda data: b"a line more\n" + data,
        lambda data: data + data[-90:],
        lambda data: b"",
        None,
    ],
    ids=["cut", "a line more", "longer", "empty", "missing"],
)
def test_a_file_that_changed_since_it_was_profiled_is_refused_before_training(
    source: PairSource, change: object
) -> None:
    if callable(change):
        source.tsv.write_bytes(change(source.tsv.read_bytes()))
    else:
        source.tsv.unlink()
    with pytest.raises(DataError, match=r"train\.tsv: missing, or not the file that was profiled; validate"):
        index_pairs([source])


def test_a_line_that_changed_since_it_was_profiled_is_named(source: PairSource) -> None:
    index = index_pairs([source])
    data = source.tsv.read_bytes()
    source.tsv.write_bytes(data.replace(b"blue bag\t", b"blue bag "))
    with pytest.raises(DataError, match=r"train\.tsv line 5: no_tab, although its profile accepted it; validate"):
        index.read(1)
    image = data.index(b"\t", data.index(b"blue bag")) + 1
    source.tsv.write_bytes(data[:image] + b"AAAA" + data[image + 4 :])
    with pytest.raises(DataError, match=r"train\.tsv line 5: not_an_image, although"):
        load_batch(index_pairs([source]), np.array([0, 1]), Crop(16))


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_file_that_vanished_after_it_was_indexed_is_a_sentence(source: PairSource, is_empty: bool) -> None:
    index = index_pairs([source])
    source.tsv.unlink()
    if is_empty:
        source.tsv.touch()
    with pytest.raises(DataError, match=r"train\.tsv: cannot be read \(.*\); pull the data version again"):
        index.read(0)


def test_an_image_over_the_decoder_s_own_limit_is_trained_on_where_the_config_allowed_it(
    source: PairSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_image, "__defaults__", (100,))
    assert len(load_batch(index_pairs([source]), np.arange(3), Crop(16)).images) == 3


def images_of_epoch(index: PairIndex, crop: Crop, threads: int, batch_size: int) -> dict[int, torch.Tensor]:
    batches = epoch_order(len(index), batch_size, crop.seed, crop.epoch)
    loaded = prefetch(batches, lambda rows: load_batch(index, rows, crop), threads)
    return {int(row): image for batch in loaded for row, image in zip(batch.rows, batch.images, strict=True)}


def test_a_pair_is_cut_the_same_whatever_the_threads_and_the_batches(tiny_data: TinyData) -> None:
    index = tiny_data.train_index()
    crop = Crop(16, min_scale=0.3, flip=True, seed=5, epoch=2)
    expected = images_of_epoch(index, crop, threads=0, batch_size=16)
    assert len(expected) == 64
    for threads, batch_size in ((1, 16), (3, 16), (2, 8), (0, 4)):
        again = images_of_epoch(index, crop, threads, batch_size)
        assert all(torch.equal(again[row], image) for row, image in expected.items())


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 3}])
def test_another_seed_or_epoch_cuts_most_pairs_otherwise(tiny_data: TinyData, change: dict[str, int]) -> None:
    index = tiny_data.train_index()
    values = {"min_scale": 0.3, "flip": True, "seed": 5, "epoch": 2}
    first, other = (load_batch(index, np.arange(64), Crop(16, **given)) for given in (values, values | change))
    assert sum(torch.equal(a, b) for a, b in zip(first.images, other.images, strict=True)) < 4
