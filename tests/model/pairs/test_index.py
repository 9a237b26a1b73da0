"""A pair is read where its profile says, and is what was profiled, whatever happens to the file."""

import multiprocessing
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs import index as pair_index
from model.pairs.index import PairIndex, PairSource, carve_valid, index_pairs, without_leaks
from model.pairs.profile import profile_files, write_profile
from tests.gears import first_of, rounds
from tests.model.pairs.reader import read_all
from tests.tiny import TinyData, drawn_jpeg, profiled

FAULTY = [b"no tab here", b"red dress\tAAAA", b"\xff\t/9j/"]
NAMES = ("red shirt", "blue bag", "white shoe")


def index_of(captions: list[int], images: list[int]) -> PairIndex:
    """Return an index that knows only which captions and images are the same."""
    rows = np.arange(len(captions))
    hashes = [np.asarray(numbers, dtype=np.uint64) for numbers in (captions, images)]
    return PairIndex((Path("train.tsv"),), np.zeros_like(rows), rows + 1, rows, rows, *hashes)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=rounds(30, 150))
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


def test_lines_that_leak_are_left_out_of_their_file_and_no_others() -> None:
    index = index_of([1, 2, 3, 4], [10, 20, 30, 40])
    index.files, index.file = (Path("a.tsv"), Path("b.tsv")), np.array([0, 0, 1, 1])
    index.line = np.array([1, 2, 1, 2])
    left = without_leaks(index, [np.array([2]), np.array([1, 7])])
    assert list(zip(left.file.tolist(), left.line.tolist(), strict=True)) == [(0, 1), (1, 2)]


def test_the_wanted_share_is_carved_where_pairs_are_distinct_and_another_seed_carves_others() -> (
    None
):
    index = index_of(list(range(100)), list(range(100)))
    carved = [carve_valid(index, 0.1, seed)[1] for seed in (0, 1)]
    assert [len(valid) for valid in carved] == [10, 10]
    assert carved[0].line.tolist() != carved[1].line.tolist()


@pytest.mark.parametrize("alone", [0, 5])
def test_where_most_pairs_are_poses_of_a_product_whole_products_are_carved(alone: int) -> None:
    """Fashion-Gen's products have four to six pictures each, all with one caption."""
    rows = np.arange(120)
    captions = np.where(rows < alone, rows + 1000, rows // 4)
    train, valid = carve_valid(index_of(captions.tolist(), rows.tolist()), 0.1, 0)
    assert 9 <= len(valid) <= 12 and len(train) + len(valid) == 120
    assert not set(train.caption_hash) & set(valid.caption_hash)


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


def test_files_follow_each_other_and_a_choice_of_rows_keeps_its_order(
    source: PairSource, tiny_data: TinyData
) -> None:
    index = index_pairs([source, tiny_data.valid])
    assert len(index) == 3 + 32 and index.file.tolist() == [0] * 3 + [1] * 32
    assert index.line.tolist() == [4, 5, 6, *range(1, 33)]
    chosen = index.take(np.array([4, 1]))
    assert [chosen.caption(0), chosen.caption(1)] == [
        tiny_data.valid_index().caption(1),
        "blue bag",
    ]
    assert [pair.image for pair in map(chosen.read, (0, 1))] == [
        index.encoded_image(4),
        index.encoded_image(1),
    ]


def test_captions_can_be_iterated_over_again_and_again(source: PairSource) -> None:
    captions = index_pairs([source]).captions()
    assert list(captions) == list(captions) == list(NAMES)


@pytest.mark.parametrize(
    "caption", ["x" * 10_000, "é" * 3000, "e\u0301\u2028\x85 \u4e2d\U0001f457", '"']
)
def test_a_caption_of_any_length_and_script_is_read_as_it_stands(
    tmp_path: Path, caption: str
) -> None:
    index = index_pairs([profiled(tmp_path / "train.tsv", [(caption, drawn_jpeg("red shirt", 1))])])
    assert index.caption(0) == index.read(0).caption == caption


def test_indexes_of_other_pairs_or_another_order_have_other_digests(source: PairSource) -> None:
    index = index_pairs([source])
    digests = {index.take(np.array(rows)).digest() for rows in ([0, 1, 2], [0, 2, 1], [0, 1], [1])}
    assert len(digests) == 4 and index.digest() in digests
    assert index.digest() == index_pairs([source]).digest()


@pytest.mark.parametrize("method", first_of(["fork", "spawn"]))
def test_forked_and_spawned_processes_read_what_their_parent_reads(
    source: PairSource, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    context = multiprocessing.get_context(method)
    index, results = index_pairs([source]), context.SimpleQueue()
    assert index.caption(2) == NAMES[2], "the parent has the file open"
    process = context.Process(target=read_all, args=(index, results))
    process.start()
    assert results.get() == list(NAMES)
    process.join(60)
    assert process.exitcode == 0


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_pickled_index_holds_no_open_file_and_a_dropped_one_closes_its_own(
    source: PairSource,
) -> None:
    before = open_files()
    index = index_pairs([source])
    copy = pickle.loads(pickle.dumps(index))
    assert copy._descriptors == {} and copy.caption(1) == index.caption(1)
    assert open_files() == before + 2
    del index, copy
    assert open_files() == before


def test_threads_share_an_index(tiny_data: TinyData) -> None:
    index, found = tiny_data.train_index(), list[list[str]]()
    threads = [
        threading.Thread(target=lambda: found.append(list(index.captions()))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(captions == list(index.captions()) for captions in found)


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
    with pytest.raises(
        DataError, match=r"train\.tsv: missing, or not the file that was profiled; validate"
    ):
        index_pairs([source])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (b"blue bag\t", b"blue hat\t", 5),
        (b"blue bag\t", b"blue bag ", 5),
        (b"white shoe\t/9j/", b"white shoe\t/9k/", 6),
        (b"red shirt\t/9j/", b"red shirt\tAAAA", 4),
    ],
    ids=["caption", "tab", "image", "no image"],
)
def test_a_line_edited_in_place_is_never_read(
    source: PairSource, old: bytes, new: bytes, line: int
) -> None:
    index, data = index_pairs([source]), source.tsv.read_bytes()
    with source.tsv.open("r+b") as file:
        file.seek(data.index(old))
        file.write(new)
    message = (
        rf"train\.tsv line {line}: not the line that was profiled, "
        "so the file changed; validate it again"
    )
    with pytest.raises(DataError, match=message):
        index.read(line - 4)
    with pytest.raises(DataError, match=message):
        index_pairs([source])
    others = [row for row in range(3) if row != line - 4]
    assert [index.caption(row) for row in others] == [NAMES[row] for row in others]


def test_edits_outside_the_sample_are_found_when_their_line_is_read(
    source: PairSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_index, "SAMPLED_LINES", 1)
    source.tsv.write_bytes(source.tsv.read_bytes().replace(b"blue bag\t", b"blue hat\t"))
    index = index_pairs([source])
    with pytest.raises(DataError, match="line 5: not the line that was profiled"):
        index.caption(1)


@pytest.mark.parametrize("left", [0, 1, 40, 200])
def test_a_file_cut_while_it_is_open_is_a_sentence_and_no_signal(
    source: PairSource, left: int
) -> None:
    index = index_pairs([source])
    with source.tsv.open("r+b") as file:
        file.truncate(left)
    with pytest.raises(DataError, match=r"train\.tsv line 6: not the line that was profiled"):
        index.read(2)
    with pytest.raises(DataError, match=r"train\.tsv line 6: not the line that was profiled"):
        index.caption(2)


def test_a_file_that_is_replaced_while_it_is_open_is_still_the_one_that_was_profiled(
    source: PairSource,
) -> None:
    index = index_pairs([source])
    other = source.tsv.with_name("other.tsv")
    other.write_bytes(b"another version\n")
    other.replace(source.tsv)
    assert [index.caption(row) for row in range(3)] == list(NAMES)


def test_a_file_that_vanished_after_it_was_indexed_is_a_sentence(source: PairSource) -> None:
    index = pickle.loads(pickle.dumps(index_pairs([source])))
    source.tsv.unlink()
    with pytest.raises(
        DataError,
        match=r"train\.tsv: cannot be read \(No such file.*\); pull the data version again",
    ):
        index.read(0)
