"""Of every kind: names are checked, files come in pairs, rows read are pairs plus rows left out."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from model.errors import CheckpointError, ConfigError, DataError
from model.importers.importing import KINDS, import_pairs
from model.importers.records import (
    ImportedPair,
    LeftOut,
    LeftOutReason,
    SourceRow,
    SplitSource,
    Untouched,
)
from model.importers.sources import split_of
from model.importers.writer import MAX_COLUMNS, write_split
from tests.golden import jpeg

IMAGE = jpeg()


def source(*rows: SourceRow, has_side_table: bool = True) -> SplitSource:
    return SplitSource("train", (), partial(iter, rows), len(rows), has_side_table)


def write_csv(folder: Path, name: str = "train.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jpg").write_bytes(IMAGE)
    path = folder / name
    path.write_text("id,title,image\n1,red dress,a.jpg\n2,blue hat,b.jpg\n", encoding="utf-8")
    return path


def test_an_unknown_kind_or_option_names_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"fashiongen: no such kind.*did you mean 'fashion-gen'\?"
    ):
        import_pairs("fashiongen", ["x.h5"], tmp_path)
    with pytest.raises(ConfigError, match=r"no option 'captoin'; did you mean 'caption'\?"):
        import_pairs("csv", ["x.csv"], tmp_path, {"captoin": "title"})
    with pytest.raises(ConfigError, match="quality is '101'"):
        import_pairs("fashion-gen", ["x.h5"], tmp_path, {"quality": "101"})
    with pytest.raises(ConfigError, match="no source"):
        import_pairs("csv", [], tmp_path)


@pytest.mark.parametrize("name", ["../train", "Train", "a/b", "", "a" * 65, "train\n"])
def test_a_hostile_split_name_is_refused(tmp_path: Path, name: str) -> None:
    table = write_csv(tmp_path / "drop")
    with pytest.raises(ConfigError, match="split is"):
        import_pairs("csv", [table], tmp_path / "out", {"split": name})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_source_and_a_folder_without_one_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        import_pairs(kind, [tmp_path / "none"], tmp_path / "out")
    with pytest.raises(DataError, match="no file that ends in"):
        import_pairs(kind, [tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_html_becomes_text_where_the_option_asks_for_it(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "drop")
    table.write_text("id,title,image\n1,red<br>dress &amp; belt,a.jpg\n2,<br>,a.jpg\n")
    import_pairs("csv", [table], tmp_path / "as", {})
    assert b"red<br>dress &amp; belt\t" in (tmp_path / "as" / "train.tsv").read_bytes()

    for options in ({"clean_html": True}, {"clean_html": "true"}):
        (split,) = import_pairs("csv", [table], tmp_path / "out", options)
        (line,) = (tmp_path / "out" / "train.tsv").read_bytes().splitlines()
        assert line.startswith(b"red dress & belt\t")
        assert split.left_out["no_caption"].rows == 1 and split.rows == 2

    tsv = tmp_path / "as" / "train.tsv"
    import_pairs("easynlp", [tsv], tmp_path / "tsv", {"clean_html": True})
    assert (tmp_path / "tsv" / "train.tsv").read_bytes().startswith(b"red dress & belt\t")


def test_rows_are_reported_and_the_split_announced(tmp_path: Path) -> None:
    seen: list[object] = []
    table = write_csv(tmp_path / "drop")
    import_pairs(
        "csv",
        [table],
        tmp_path / "out",
        on_rows=seen.append,
        on_split=lambda *split: seen.append(split),
    )
    assert seen == [("train", None), 2]


def test_reports_add_up_to_the_rows_read(tmp_path: Path) -> None:
    seen: list[int] = []
    rows = [ImportedPair(str(row), "a red dress", IMAGE, {}) for row in range(600)]
    assert write_split(source(*rows), tmp_path, seen.append).pairs == 600
    assert (len(seen), sum(seen)) == (3, 600)


def test_what_is_left_out_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    missing = [LeftOut(LeftOutReason.MISSING_IMAGE, f"{row}.jpg") for row in range(9)]
    empty = [
        ImportedPair("p1", " \t", IMAGE, {}),
        ImportedPair("p2", "hat", b"", {}),
        ImportedPair("p3", "half \ud83d", IMAGE, {}),
    ]
    split = write_split(source(*missing, *empty, ImportedPair("p4", "hat", IMAGE, {})), tmp_path)
    assert (split.rows, split.pairs) == (13, 1)
    assert split.left_out == {
        "missing_image": (9, ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg")),
        "no_caption": (1, ("p1",)),
        "no_image": (1, ("p2",)),
        "bad_utf8": (1, ("p3",)),
    }


def test_a_name_cannot_carry_control_characters_to_a_terminal(tmp_path: Path) -> None:
    rows = (
        LeftOut(LeftOutReason.NO_IMAGE, "\x1b[31m\u202ered\n" + "x" * 200),
        ImportedPair("p", "hat", IMAGE, {}),
    )
    (name,) = write_split(source(*rows), tmp_path).left_out["no_image"].names
    assert name.startswith("\\x1b[31m\\u202ered\\nx") and name.isprintable() and len(name) < 150


def test_a_split_without_a_pair_leaves_no_file_and_an_import_without_one_is_refused_with_reasons(
    tmp_path: Path,
) -> None:
    split = write_split(source(LeftOut(LeftOutReason.NO_CAPTION, "p1")), tmp_path / "out")
    assert (split.tsv, split.side_table, list((tmp_path / "out").iterdir())) == (None, None, [])
    table = write_csv(tmp_path / "drop")
    (tmp_path / "drop" / "a.jpg").unlink()
    with pytest.raises(
        DataError, match=r"no row became a pair: train 2 missing_image \(a.jpg, b.jpg\)"
    ):
        import_pairs("csv", [table], tmp_path / "out")


def test_line_breaks_become_spaces_in_captions_and_in_the_side_table(
    tmp_path: Path, accepted
) -> None:
    columns = {"title": 'a "red"\r\ndress, long', "note\n": "x\ty\rz", "null": "NA"}
    split = write_split(
        source(ImportedPair("1\n2", "a\tred\r\ndress\u2028\n", IMAGE, columns)), tmp_path
    )
    pairs, table = accepted(split)
    assert pairs == [("a red dress\u2028 ", IMAGE)]
    assert split.cleaned_captions == 1
    assert table == {
        "id": ["1 2"],
        "title": ['a "red" dress, long'],
        "note ": ["x y z"],
        "null": ["NA"],
    }
    assert len((tmp_path / "train.products.csv").read_bytes().split(b"\n")) == 3


def test_columns_may_appear_at_any_row(tmp_path: Path, accepted) -> None:
    rows = [
        ImportedPair("1", "hat", IMAGE, {"title": "Hat"}),
        ImportedPair("2", "cap", IMAGE, {"colour": "red", "title": "Cap"}),
        ImportedPair("3", "bag", IMAGE, {}),
    ]
    _, table = accepted(write_split(source(*rows), tmp_path))
    assert table == {"id": ["1", "2", "3"], "title": ["Hat", "Cap", ""], "colour": ["", "red", ""]}


def test_a_flood_of_columns_is_cut_and_reported(tmp_path: Path, accepted) -> None:
    rows = [
        ImportedPair(str(row), "hat", IMAGE, {f"field {row}": "x"})
        for row in range(MAX_COLUMNS + 3)
    ]
    split = write_split(source(*rows), tmp_path)
    assert len(accepted(split)[1]) == MAX_COLUMNS
    assert split.dropped_columns == tuple(
        f"field {row}" for row in range(MAX_COLUMNS - 1, MAX_COLUMNS + 3)
    )


def failing(rows: list[SourceRow]) -> Iterator[SourceRow]:
    yield from rows
    raise DataError("shard.tar: damaged")


def test_a_failure_leaves_the_files_of_the_import_before(tmp_path: Path) -> None:
    row = ImportedPair("1", "hat", IMAGE, {})
    write_split(source(row), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="damaged"):
        write_split(SplitSource("train", (), partial(failing, [row, row])), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_kill_between_the_renames_leaves_no_tsv_with_a_foreign_side_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(source(ImportedPair("1", "hat", IMAGE, {})), tmp_path)
    replace = Path.replace
    renamed: list[tuple[str, bool]] = []

    def record(self: Path, target: Path) -> Path:
        renamed.append((target.name, (tmp_path / "train.tsv").exists()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record)
    write_split(source(ImportedPair("2", "cap", IMAGE, {})), tmp_path)
    assert renamed == [("train.products.csv", False), ("train.tsv", False)]


def test_an_import_without_products_removes_the_side_table_of_an_earlier_one(
    tmp_path: Path,
) -> None:
    write_split(source(ImportedPair("1", "hat", IMAGE, {})), tmp_path)
    split = write_split(source(Untouched(b"no tab"), has_side_table=False), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.tsv"]
    assert split.side_table is None and (tmp_path / "train.tsv").read_bytes() == b"no tab\n"


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "drop")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        import_pairs("csv", [table], tmp_path / "out")


def test_a_source_is_never_written_over(tmp_path: Path) -> None:
    table = write_csv(tmp_path, "train.tsv")
    table.write_text(table.read_text().replace(",", "\t"))
    before = table.read_bytes()
    with pytest.raises(DataError, match=r"train\.tsv: is a source"):
        import_pairs("csv", [table], tmp_path)
    assert table.read_bytes() == before


def test_two_sources_of_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "query.tsv").write_text("hat\n")
    with pytest.raises(DataError, match=r"all would become query\.tsv"):
        import_pairs("easynlp", [tmp_path / "a", tmp_path / "b"], tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("drop/products-val.csv", "valid"),
        ("drop/train-00001-of-00002.parquet", "train"),
        ("test/00000.tar", "test"),
        ("drop/latest_contest.csv", "train"),
        ("my test/00000.tar", "train"),
        ("test/dev.csv", "valid"),
    ],
)
def test_the_split_is_a_word_of_the_file_or_the_name_of_its_folder(path: str, split: str) -> None:
    assert split_of(Path(path), None) == split
    assert split_of(Path(path), "chosen") == "chosen"
