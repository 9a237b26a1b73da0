"""Both layouts of a data folder are found, and a side table is text, row by row beside its TSV."""

from pathlib import Path

import pyarrow as pa
import pytest

from model.errors import DataError
from model.pairs.splits import (
    Splits,
    are_floats,
    canonical_ids,
    find_split_files,
    read_side_table,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_nested_layout_is_found(tmp_path: Path) -> None:
    home = tmp_path / "finetune"
    touch(tmp_path, "pretrain/b.tsv", "pretrain/a.tsv", "pretrain/a.products.csv")
    touch(home, "train.tsv", "valid.tsv", "test.tsv")
    pretrain = (tmp_path / "pretrain" / "a.tsv", tmp_path / "pretrain" / "b.tsv")
    assert find_split_files(tmp_path) == Splits(
        pretrain, home / "train.tsv", home / "valid.tsv", home / "test.tsv"
    )


def test_the_flat_layout_has_no_pretraining_and_may_lack_valid(tmp_path: Path) -> None:
    touch(tmp_path, "train.tsv", "test.tsv")
    assert find_split_files(tmp_path) == Splits(
        (), tmp_path / "train.tsv", None, tmp_path / "test.tsv"
    )


def test_a_missing_split_is_named_with_both_layouts(tmp_path: Path) -> None:
    touch(tmp_path, "finetune/valid.tsv")
    with pytest.raises(
        DataError,
        match=r"no train\.tsv and no test\.tsv; expected pretrain/\*\.tsv with finetune/.* or",
    ):
        find_split_files(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_split_files(tmp_path / "none")


def test_a_side_table_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "test.products.csv").write_text(
        'id,title\n007,NA\n1e5,"two\nlines"\n,null\n', encoding="utf-8"
    )
    table = read_side_table(tmp_path / "test.tsv", required=True, lines=3)
    assert table is not None
    assert table.to_pydict() == {"id": ["007", "1e5", ""], "title": ["NA", "two\nlines", "null"]}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not a UTF-8 CSV"),
        (b"id,title\n1\n", "not a UTF-8 CSV"),
        (b"id,title\n1,\xff\n", "not a UTF-8 CSV"),
        (b"title\nred\n", "needs one column named id, found title"),
        (b"id,id\n1,2\n", "needs one column named id"),
        (b"id\n1\n2\n", "2 rows for the 1 lines of test.tsv"),
    ],
)
def test_a_bad_side_table_is_refused_in_a_sentence(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    (tmp_path / "test.products.csv").write_bytes(data)
    with pytest.raises(DataError, match=sentence):
        read_side_table(tmp_path / "test.tsv", required=False, lines=1)


def test_a_side_table_may_be_missing_unless_it_is_required(tmp_path: Path) -> None:
    assert read_side_table(tmp_path / "test.tsv", required=False, lines=1) is None
    with pytest.raises(DataError, match=r"test\.products\.csv: no side table"):
        read_side_table(tmp_path / "test.tsv", required=True, lines=1)


@pytest.mark.faults(kind="F3", trials=6)
def test_ids_are_compared_by_what_they_name_and_not_by_their_form() -> None:
    ids = ["1000.0", " 1000 ", "1000.00", "007", "7", "7.5", "0.0", "-3.0", "A-1.0", "1e3", "", " "]
    plain = ["1000", "1000", "1000", "007", "7", "7.5", "0", "-3", "A-1.0", "1e3", None, None]
    assert canonical_ids(pa.chunked_array([ids])).to_pylist() == plain


def test_ids_look_like_floats_where_all_of_them_do() -> None:
    for ids, expected in (
        (["1000.0", "", "12.0"], True),
        (["1000.0", "12"], False),
        (["1.5"], False),
        (["", ""], False),
        ([], False),
    ):
        assert are_floats(pa.chunked_array([pa.array(ids, pa.string())])) == expected
