"""CSV and Parquet: columns by name, images by path, URL or bytes; none from outside, none lost."""

import os
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError, DataError
from model.importers.importing import import_pairs
from tests.golden import encoded, jpeg, picture

FIRST, SECOND = jpeg(seed=1), encoded(picture(seed=2), "PNG")


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    """A folder with two image files, one of them in a folder of its own."""
    folder = tmp_path / "drop"
    (folder / "images").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(FIRST)
    (folder / "images" / "15970.png").write_bytes(SECOND)
    return folder


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def imported(path: Path, **options: Any) -> Any:
    (split,) = import_pairs("csv", [path], path.parent.parent / "out", options)
    return split


def test_columns_are_chosen_by_their_names_and_the_others_kept(drop: Path, accepted) -> None:
    path = write(
        drop / "styles.csv",
        "\ufeffid,gender,masterCategory,subCategory,productDisplayName,filename\r\n"
        '15970,Men,Apparel,NA,"Shirt, ""navy""\r\nblue",a.jpg\r\n'
        "007,,Apparel,Topwear,Red hat,images/15970.png\r\n",
    )
    split = imported(path)
    pairs, side = accepted(split)
    assert pairs == [('Shirt, "navy" blue', FIRST), ("Red hat", SECOND)]
    assert side == {
        "id": ["15970", "007"],
        "title": ['Shirt, "navy" blue', "Red hat"],
        "category": ["Apparel", "Apparel"],
        "subcategory": ["NA", "Topwear"],
        "gender": ["Men", ""],
    }
    assert (split.split, split.cleaned_captions) == ("train", 1)


def test_options_choose_columns_and_the_folder_of_images(drop: Path, accepted) -> None:
    path = write(drop / "test.csv", "id;sku;title;Beschreibung\n15970;S1;Hut;Ein roter Hut\n")
    split = imported(
        path, images=str(drop / "images"), caption="Beschreibung", image="id", id="sku"
    )
    pairs, side = accepted(split)
    assert pairs == [("Ein roter Hut", SECOND)]
    assert side == {"id": ["S1"], "title": ["Hut"]}
    assert split.split == "test"


def test_a_column_that_has_the_name_of_another_role_is_kept_beside_it(drop: Path, accepted) -> None:
    path = write(drop / "a.csv", "id,sku,title,label,image,text\n1,S1,T,L,a.jpg,a hat\n")
    _, side = accepted(imported(path, id="sku", title="label", caption="text"))
    assert side == {"id": ["S1"], "title": ["L"], "source_id": ["1"], "source_title": ["T"]}


def test_columns_without_a_name_as_pandas_and_excel_write_are_named_by_their_place(
    drop: Path, accepted
) -> None:
    path = write(drop / "a.csv", ",title, image ,\n0,hat,a.jpg,\n1,bag,a.jpg,x\n")
    _, side = accepted(imported(path))
    assert side == {
        "id": ["a.jpg", "a.jpg"],
        "title": ["hat", "bag"],
        "unnamed_1": ["0", "1"],
        "unnamed_4": ["", "x"],
    }


def test_a_url_is_found_on_disk_by_its_path_or_its_file_name(drop: Path, accepted) -> None:
    path = write(
        drop / "a.csv",
        "caption,link\nhat,https://shop.example/images/15970.png?w=200\nbag,http://cdn.example/x/y/a.jpg#top\n"
        "cap,https://shop.example/x/%61.jpg\n",
    )
    pairs, side = accepted(imported(path))
    assert [pair.image for pair in pairs] == [SECOND, FIRST, FIRST]
    assert side["id"][0] == "https://shop.example/images/15970.png?w=200"


def test_nothing_outside_the_folder_of_images_is_read(drop: Path) -> None:
    secret = write(drop.parent / "secret.jpg", FIRST)
    (drop / "link.jpg").symlink_to(secret)
    (drop / "loop.jpg").symlink_to(drop / "loop.jpg")
    names = [
        "../secret.jpg",
        str(secret),
        "images/../../secret.jpg",
        "link.jpg",
        "https://x.example/..%2F..%2Fsecret.jpg",
        "https://x.example/../secret.jpg",
    ]
    path = write(
        drop / "a.csv",
        "caption,image\n" + "".join(f"hat,{name}\n" for name in [*names, "a.jpg", "loop.jpg"]),
    )
    split = imported(path)
    assert split.pairs == 1
    assert split.left_out["outside_images"].rows == len(names)
    assert split.left_out["unreadable_image"].names == ("loop.jpg",)


def test_what_is_no_image_file_is_counted_and_named(drop: Path) -> None:
    names = ["none.jpg", "", "images", "a.jpg/x", "http://[", "x" * 300]
    path = write(
        drop / "a.csv",
        "caption,image\n" + "".join(f"hat,{name}\n" for name in [*names, "a.jpg"]) + ",a.jpg\n",
    )
    split = imported(path)
    assert (split.rows, split.pairs) == (len(names) + 2, 1)
    assert split.left_out["missing_image"] == (4, ("none.jpg", "images", "a.jpg/x", "http://["))
    assert split.left_out["no_image"] == (1, ("a.csv row 2",))
    assert split.left_out["no_caption"] == (1, ("a.jpg",))
    assert split.left_out["unreadable_image"].rows == 1


def test_a_fifo_is_no_image_and_blocks_nothing(drop: Path) -> None:
    os.mkfifo(drop / "pipe.jpg")
    path = write(drop / "a.csv", "caption,image\nhat,pipe.jpg\nbag,a.jpg\n")
    assert imported(path).left_out == {"missing_image": (1, ("pipe.jpg",))}


def test_a_row_with_a_stray_comma_is_named_by_its_number(drop: Path, accepted) -> None:
    rows = [f"{row},hat {row},a.jpg" for row in range(1, 101)]
    rows[2], rows[59], rows[99] = "3,hat, blue,a.jpg", "60,hat", "100,hat,a.jpg,"
    rows[60] = "61,hat,"
    path = write(drop / "a.csv", "id,caption,image\n" + "\n".join(rows) + "\n")
    split = imported(path)
    assert (split.rows, split.pairs) == (100, 96)
    assert split.left_out["no_image"] == (1, ("a.csv row 61",))
    assert split.left_out["bad_row"] == (
        3,
        (
            "a.csv row 3, 4 fields for 3 columns: 3,hat, blue,a.jpg",
            "a.csv row 60, 2 fields for 3 columns: 60,hat",
            "a.csv row 100, 4 fields for 3 columns: 100,hat,a.jpg,",
        ),
    )
    assert accepted(split)[1]["id"] == [
        str(row) for row in range(1, 101) if row not in (3, 60, 61, 100)
    ]


def test_a_row_is_numbered_past_bad_rows_and_line_breaks_in_quotes(drop: Path, accepted) -> None:
    broken = [f'"hat\n{row}",a.jpg' for row in range(1, 41)]
    broken[9], broken[10] = "bad", "no image,"
    split = imported(write(drop / "a.csv", "caption,image\n" + "\n".join(broken) + "\n"))
    assert split.left_out == {
        "bad_row": (1, ("a.csv row 10, 1 fields for 2 columns: bad",)),
        "no_image": (1, ("a.csv row 11",)),
    }
    captions = [pair.caption for pair in accepted(split)[0]]
    assert captions == [f"hat {row}" for row in range(1, 41) if row not in (10, 11)]


def test_parquet_cells_become_text_and_its_rows_are_known(drop: Path, accepted) -> None:
    rows = {
        "item_ID": [5, 6],
        "Caption": ["a hat", "NA"],
        "image_path": ["a.jpg", "images/15970"],
        "price": [9.5, None],
        "tags": [["x", "é"], []],
        "thumbnail": [b"\x00", b"\x01"],
        "other": [{"bytes": b"\x00", "day": date(2026, 1, 2)}, None],
    }
    path = drop / "valid-00000-of-00001.parquet"
    pq.write_table(pa.table(rows), path)
    totals: list[Any] = []
    (split,) = import_pairs(
        "csv", [path], drop.parent / "out", on_split=lambda *args: totals.append(args)
    )
    pairs, side = accepted(split)
    assert pairs == [("a hat", FIRST), ("NA", SECOND)]
    assert side == {
        "id": ["5", "6"],
        "price": ["9.5", ""],
        "tags": ['["x", "é"]', "[]"],
        "other": ['{"bytes": "", "day": "2026-01-02"}', ""],
    }
    assert totals == [("valid", 2)]


def test_parquet_may_hold_the_images_themselves(drop: Path, accepted) -> None:
    rows = [
        {"image": {"bytes": FIRST, "path": "1.jpg"}, "text": "a hat"},
        {"image": {"bytes": None, "path": "a.jpg"}, "text": "a bag"},
        {"image": {"bytes": SECOND, "path": None}, "text": "a cap"},
        {"image": None, "text": "nothing"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), drop / "a.parquet")
    split = imported(drop / "a.parquet")
    pairs, side = accepted(split)
    assert [pair.image for pair in pairs] == [FIRST, FIRST, SECOND]
    assert side == {"id": ["1.jpg", "a.jpg", "a.parquet row 3"]}
    assert split.left_out == {"no_image": (1, ("a.parquet row 4",))}


def test_tables_of_one_split_are_joined_in_the_order_of_their_names(drop: Path, accepted) -> None:
    for name in ("train-1.csv", "train-0.csv", "test.csv"):
        write(drop / name, f"caption,image\n{name},a.jpg\n")
    splits = import_pairs("csv", [drop], drop.parent / "out")
    assert [split.split for split in splits] == ["test", "train"]
    assert [pair.caption for pair in accepted(splits[1])[0]] == ["train-0.csv", "train-1.csv"]


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (b"", {}, "is empty"),
        (b"caption,image\ncaf\xe9,a.jpg\n", {}, "1 bad_utf8 .*the option encoding"),
        (b"hat,a.jpg\nbag,b.jpg\n", {}, "first row is a pair .* put them above it"),
        (b"<!DOCTYPE html>\n<html>", {}, "an HTML page"),
        (
            b"sku,colour\n1,red\n",
            {},
            "no column for the caption among sku, colour; name it by the option caption",
        ),
        (b"caption,colour\n1,red\n", {}, "no column for the image among"),
        (b"caption,image,image\n1,a.jpg,b.jpg\n", {}, "two columns are named image"),
        (
            b"caption,image\nhat,a.jpg\n",
            {"caption": "Captoin"},
            r"no column Captoin; did you mean 'caption'\?",
        ),
        (b"caption,image\n", {}, "no row became a pair: the sources hold no row"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(
    drop: Path, data: bytes, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        imported(write(drop / "a.csv", data), **options)


def test_a_damaged_parquet_or_a_missing_folder_of_images_is_one_sentence(drop: Path) -> None:
    path = drop / "a.parquet"
    pq.write_table(pa.table({"caption": ["hat"], "image": ["a.jpg"]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        imported(path)
    with pytest.raises(DataError, match="no such folder of images"):
        imported(write(drop / "a.csv", "caption,image\nhat,a.jpg\n"), images=str(drop / "none"))
    with pytest.raises(ConfigError, match="no option 'root'"):
        imported(drop / "a.csv", root="x")


def test_names_without_an_ending_in_capitals_and_a_folder_of_images_are_found(
    drop: Path, accepted
) -> None:
    (drop / "images" / "b.JPG").write_bytes(FIRST)
    (drop / "images" / "c.gif").write_bytes(encoded(picture(seed=3), "GIF"))
    path = write(drop / "a.csv", "caption,filepath\nhat,b\nbag,15970\ncap,c\nshoe,b.JPG\n")
    split = imported(path)
    assert (split.rows, split.pairs, split.advice) == (4, 4, ())
    assert accepted(split)[1]["id"] == ["b", "15970", "c", "b.JPG"]


def test_where_an_image_was_looked_for_and_the_option_for_it_are_named(drop: Path) -> None:
    path = write(drop / "a.csv", "caption,image\nhat,a.jpg\nbag,b.jpg\ncap,/data/shop/c.jpg\n")
    missing, outside = imported(path).advice
    assert missing == (
        f"missing_image: looked in {drop} and its folder images; "
        "the option images names another folder"
    )
    assert outside.startswith("outside_images: absolute") and "the option images" in outside
    elsewhere = write(drop / "images" / "test.csv", "caption,image\nhat,a.jpg\n")
    with pytest.raises(DataError, match=r"missing_image \(a.jpg\).*looked in .*the option images"):
        imported(elsewhere)
    (split,) = import_pairs("csv", [elsewhere], drop.parent / "out", {"images": str(drop)})
    assert split.pairs == 1


@pytest.mark.parametrize(
    "cell", ['["a.jpg", "images/15970.png"]', "['a.jpg', 'images/15970.png']",
             "a.jpg|images/15970.png", "a.jpg, images/15970.png"]
)  # fmt: skip
def test_a_cell_that_lists_images_gives_the_first_or_all_of_one_product(
    drop: Path, accepted, cell: str
) -> None:
    path = write(drop / "a.csv", f"id;title;images\n7;hat;{cell}\n8;bag;a.jpg\n")
    assert [pair.image for pair in accepted(imported(path))[0]] == [FIRST, FIRST]
    pairs, side = accepted(imported(path, several="all"))
    assert [pair.image for pair in pairs] == [FIRST, SECOND, FIRST]
    assert side["id"] == ["7", "7", "8"]


def test_a_name_with_a_comma_is_one_image_and_an_empty_list_none(drop: Path) -> None:
    (drop / "a.jpg,b.jpg").write_bytes(SECOND)
    path = write(drop / "a.csv", 'title;image\nhat;a.jpg,b.jpg\nbag;[]\ncap;["gone.jpg"]\n')
    split = imported(path)
    assert split.tsv is not None and split.tsv.read_bytes().startswith(b"hat\tiVBOR")
    assert split.left_out == {
        "no_image": (1, ("a.csv row 2",)),
        "missing_image": (1, ("gone.jpg",)),
    }


def test_hugging_faces_metadata_is_a_table_whose_images_lie_beside_it(drop: Path, accepted) -> None:
    lines = [
        '{"file_name": "a.jpg", "text": "a hat", "price": 9.5}',
        "",
        '{"file_name": "images/15970.png", "text": "a bag", "tags": ["x"]}',
        "{", "[1]", '{"text": "nothing"}',
    ]  # fmt: skip
    (drop / "train").mkdir()
    for name in ("a.jpg", "images"):
        (drop / name).rename(drop / "train" / name)
    write(drop / "train" / "metadata.jsonl", "\n".join(lines))
    (split,) = import_pairs("csv", [drop / "train"], drop.parent / "out")
    pairs, side = accepted(split)
    assert pairs == [("a hat", FIRST), ("a bag", SECOND)]
    assert side == {
        "id": ["a.jpg", "images/15970.png"],
        "price": ["9.5", ""],
        "tags": ["", '["x"]'],
    }
    assert split.left_out == {
        "bad_json": (1, ("metadata.jsonl line 4",)),
        "bad_field": (1, ("metadata.jsonl line 5",)),
        "no_image": (1, ("metadata.jsonl row 5",)),
    }
