"""What a model was trained on is known by its traces alone: image, look, words and product."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from model.pairs.repeats import LEAK_KINDS
from model.pairs.seen import TRACES_SCHEMA, collect_traces, find_seen, is_readable
from model.storage.tables import read_table, write_table
from tests.model.pairs.test_repeats import jpeg, profiled
from tests.model.pairs.test_tsv import pair_line


def test_a_test_pair_that_shares_anything_with_the_traces_is_found_by_its_kind(
    tmp_path: Path,
) -> None:
    train = profiled(
        tmp_path,
        "train",
        [
            pair_line("red dress", jpeg(1)),
            pair_line("blue dress", jpeg(2)),
            b"faulty",
            pair_line("dropped", jpeg(3)),
        ],
        ["p1", "", "p3", "p4"],
    )
    write_table(collect_traces([(train, np.array([4]))]), tmp_path / "traces.parquet")
    traces = read_table(tmp_path / "traces.parquet", TRACES_SCHEMA)
    test = profiled(
        tmp_path,
        "test",
        [
            pair_line("a shoe", jpeg(1)),
            pair_line("a bag", jpeg(2, quality=55)),
            b"faulty",
            pair_line("RED dress!", jpeg(11)),
            pair_line("a hat", jpeg(12)),
            pair_line("dropped", jpeg(3)),
            pair_line("a cap", jpeg(13)),
        ],
        ["", "", "", "", "p1", "p4", ""],
    )
    found = find_seen(test, np.array([1, 2, 4, 5, 6, 7]), traces)
    assert list(found) == list(LEAK_KINDS)
    assert {kind: np.flatnonzero(seen).tolist() for kind, seen in found.items()} == {
        "image": [0],
        "near_image": [0, 1],
        "caption": [2],
        "product": [3],
    }
    assert not find_seen(test, np.array([7]), traces)["product"].any()


def test_traces_of_several_splits_are_distinct_and_sorted(tmp_path: Path) -> None:
    lines = [pair_line(f"dress {number}", jpeg(number)) for number in (1, 2, 1)]
    splits = [profiled(tmp_path, name, lines) for name in ("train", "valid")]
    traces = collect_traces((split, np.empty(0, np.int64)) for split in splits)
    counts = dict(zip(*np.unique(traces["kind"].to_numpy(), return_counts=True), strict=True))
    assert counts == {"caption": 2, "image": 2, "near_image": 2}
    captions = traces["hash"].to_numpy()[:2]
    assert captions[0] < captions[1]


def test_no_training_leaves_no_traces_and_other_hashes_are_not_read(tmp_path: Path) -> None:
    none = collect_traces([])
    test = profiled(tmp_path, "test", [pair_line("red dress", jpeg(1))])
    assert not any(seen.any() for seen in find_seen(test, np.array([1]), none).values())
    assert is_readable(none)
    assert not is_readable(none.replace_schema_metadata({"profile": "1"}))
    assert not is_readable(pa.table({"kind": []}))


def test_a_product_is_known_again_whatever_form_its_id_has(tmp_path: Path) -> None:
    train = profiled(tmp_path, "train", [pair_line("red dress", jpeg(1))], ["1000.0"])
    test = profiled(
        tmp_path,
        "test",
        [pair_line("a shoe", jpeg(2)), pair_line("a bag", jpeg(3))],
        [" 1000", "01000"],
    )
    traces = collect_traces([(train, np.empty(0, np.int64))])
    assert find_seen(test, np.array([1, 2]), traces)["product"].tolist() == [True, False]
