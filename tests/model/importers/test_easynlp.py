"""EasyNLP's TSV files pass through line by line, the good and the faulty."""

import base64
from pathlib import Path

import pytest

from model.errors import ConfigError, DataError
from model.importers import easynlp
from model.importers.importing import import_pairs
from model.pairs.tsv import parse_line
from tests.golden import jpeg

URL_SAFE = base64.urlsafe_b64encode(jpeg(seed=4))
STANDARD = base64.b64encode(jpeg(seed=5))


def write(path: Path, *lines: bytes, ending: bytes = b"\n") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(line + ending for line in lines))
    return path


def test_pairs_pass_through_byte_for_byte_without_bom_and_cr(tmp_path: Path) -> None:
    lines = [
        "高级感托特包\t".encode() + URL_SAFE,
        b'"NA"\t' + STANDARD,
        b"no tab",
        b"a\tb\tc",
        b"",
        b"hat\t!!",
    ]
    path = write(tmp_path / "drop" / "MUGE_MR_train_base64_part.tsv", *lines, ending=b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().removesuffix(b"\r\n"))
    totals = []
    (split,) = import_pairs(
        "easynlp", [path], tmp_path / "out", on_split=lambda *args: totals.append(args)
    )
    assert split.tsv == tmp_path / "out" / "train.tsv"
    assert split.tsv.read_bytes() == b"".join(line + b"\n" for line in lines)
    assert (split.rows, split.pairs, split.left_out) == (6, 6, {})
    assert totals == [("train", 6)]
    assert split.side_table is None and not (tmp_path / "out" / "train.products.csv").exists()
    assert parse_line(lines[0]) == ("高级感托特包", jpeg(seed=4))


def test_ids_before_the_pairs_become_the_side_table(tmp_path: Path, accepted) -> None:
    path = write(
        tmp_path / "T2I_val.tsv", b"p,1\thigh boots\t" + URL_SAFE, b"p2\thigh boots\t" + STANDARD
    )
    (split,) = import_pairs("easynlp", [path], tmp_path / "out")
    pairs, table = accepted(split)
    assert pairs == [("high boots", jpeg(seed=4)), ("high boots", jpeg(seed=5))]
    assert table == {"id": ["p,1", "p2"]}
    assert split.split == "valid"


def test_a_line_of_another_width_among_ids_passes_through_under_a_name_of_its_own(
    tmp_path: Path,
) -> None:
    good = b"1\that\t" + STANDARD
    path = write(tmp_path / "train.tsv", good, b"no tab", good, b"1\t2\t3\t4")
    (split,) = import_pairs("easynlp", [path], tmp_path / "out")
    assert split.tsv is not None and split.side_table is not None
    assert split.tsv.read_bytes().split(b"\n")[1::2] == [b"no tab", b"1\t2\t3\t4"]
    ids = split.side_table.read_text().splitlines()
    assert ids == ["id", "1", "train.tsv line 2", "1", "train.tsv line 4"]


@pytest.mark.parametrize(
    ("order", "columns"),
    [
        ("image caption", None), ("image id caption", None), ("id image caption", None),
        ("caption image id", None), ("image caption id", None), ("id caption image", None),
        ("id x caption y image", "id,-,caption,-,image"),
        ("image x caption id", "image,-,caption,id"),
    ],
)  # fmt: skip
def test_columns_in_another_order_are_found_and_others_named(
    tmp_path: Path, accepted, order: str, columns: str | None
) -> None:
    cells = {"caption": b"a red hat", "image": STANDARD, "id": b"S7", "x": b"x", "y": b"1.5"}
    line = b"\t".join(cells[name] for name in order.split())
    path = write(tmp_path / "train.tsv", line, line, b"no tab", ending=b"\r\n")
    options = {} if columns is None else {"columns": columns}
    (split,) = import_pairs("easynlp", [path], tmp_path / "out", options)
    assert split.tsv is not None
    assert split.tsv.read_bytes() == b"a red hat\t" + STANDARD + b"\na red hat\t" + STANDARD + (
        b"\nno tab\n"
    )
    if "id" in order:
        assert split.side_table is not None
        assert split.side_table.read_text().splitlines()[1:3] == ["S7", "S7"]


def test_columns_that_are_no_pair_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", b"1\t2\t3\t4")
    for columns in ("id,caption", "caption,caption,image", "caption,picture"):
        with pytest.raises(ConfigError, match="columns is"):
            import_pairs("easynlp", [path], tmp_path / "out", {"columns": columns})


def test_prediction_files_keep_their_names(tmp_path: Path) -> None:
    write(
        tmp_path / "drop" / "MUGE_MR_test_base64_part_text.tsv",
        "红色 裙子".encode(),
        b"",
        ending=b"\r\n",
    )
    write(tmp_path / "drop" / "MUGE_MR_test_base64_part_image.tsv", URL_SAFE, STANDARD)
    splits = import_pairs("easynlp", [tmp_path / "drop"], tmp_path / "out")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == {
        "muge_mr_test_base64_part_text.tsv": "红色 裙子\n\n".encode(),
        "muge_mr_test_base64_part_image.tsv": URL_SAFE + b"\n" + STANDARD + b"\n",
    }
    assert [split.pairs for split in splits] == [2, 2]


@pytest.mark.parametrize(
    ("stem", "name"), [("..evil", "evil"), ("Ä b", "b"), ("查询", "import"), ("x" * 99, "x" * 64)]
)
def test_the_name_of_a_prediction_file_is_made_safe(tmp_path: Path, stem: str, name: str) -> None:
    path = write(tmp_path / "drop" / f"{stem}.tsv", b"red hat")
    (split,) = import_pairs("easynlp", [path], tmp_path / "out")
    assert split.tsv == tmp_path / "out" / f"{name}.tsv"


def test_train_and_valid_files_become_their_splits(tmp_path: Path) -> None:
    for name in ("fashiongen_1to1_train", "fashiongen_1to1_test"):
        write(tmp_path / "drop" / f"{name}.tsv", b"hat\t" + STANDARD)
    splits = import_pairs("easynlp", [tmp_path / "drop"], tmp_path / "out")
    assert sorted(split.split for split in splits) == ["test", "train"]


def test_a_line_too_long_to_hold_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(easynlp, "MAX_LINE_BYTES", 5000)
    path = write(
        tmp_path / "train.tsv", b"hat\t" + STANDARD, b"bag\t" + STANDARD * 9, b"cap\t" + STANDARD
    )
    (split,) = import_pairs("easynlp", [path], tmp_path / "out")
    assert split.left_out == {"too_large": (1, ("train.tsv line 2",))}
    assert (split.rows, split.pairs) == (3, 2)


def test_what_is_no_tsv_of_easynlp_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 columns, expected caption and base64"):
        import_pairs("easynlp", [write(tmp_path / "a.tsv", b"1\t2\t3\t4")], tmp_path / "out")
    with pytest.raises(DataError, match="is empty"):
        import_pairs("easynlp", [write(tmp_path / "b.tsv")], tmp_path / "out")
    with pytest.raises(DataError, match="gzip-compressed"):
        import_pairs("easynlp", [write(tmp_path / "c.tsv", b"\x1f\x8b\x08")], tmp_path / "out")
