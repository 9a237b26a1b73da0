"""MUGE and Chinese-CLIP: every (text, image) is a pair, and what cannot be one is counted."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from model.importers import chinese_clip
from model.importers.importing import import_pairs
from tests.golden import encoded, jpeg, picture

IMAGES = {1076345: jpeg(seed=1), 517602: encoded(picture(seed=2), "PNG"), 33: jpeg(seed=3)}


def write_images(path: Path, ending: str = "\n") -> Path:
    lines = [f"{key}\t{base64.b64encode(image).decode()}{ending}" for key, image in IMAGES.items()]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    return path


def write_texts(path: Path, *queries: Any) -> Path:
    lines = [
        query if isinstance(query, str) else json.dumps(query, ensure_ascii=False)
        for query in queries
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def query(key: int, text: str, *images: int) -> dict[str, Any]:
    return {"text_id": key, "text": text, "image_ids": list(images)}


def test_each_text_and_image_is_a_pair_whose_product_is_the_image(tmp_path: Path, accepted) -> None:
    write_images(tmp_path / "train_imgs.tsv")
    write_texts(
        tmp_path / "train_texts.jsonl",
        query(8428, "高级感托特包斜挎", 517602, 1076345),
        query(8429, "包", 517602),
    )
    (split,) = import_pairs("muge", [tmp_path], tmp_path / "out")
    pairs, table = accepted(split)
    assert pairs == [
        ("高级感托特包斜挎", IMAGES[517602]),
        ("高级感托特包斜挎", IMAGES[1076345]),
        ("包", IMAGES[517602]),
    ]
    assert table == {"id": ["517602", "1076345", "517602"], "text_id": ["8428", "8428", "8429"]}
    assert (split.rows, split.left_out) == (3, {})


def test_the_splits_of_a_folder_are_found_and_queries_without_images_are_counted(
    tmp_path: Path,
) -> None:
    for name in ("train", "valid", "test"):
        write_images(tmp_path / f"{name}_imgs.tsv")
    write_texts(tmp_path / "train_texts.jsonl", query(1, "包", 33, 517602))
    write_texts(tmp_path / "valid_texts.jsonl", query(2, "帽", 33))
    write_texts(tmp_path / "test_texts.jsonl", query(3, "鞋"), {"text_id": 4, "text": "裙"})
    totals = []
    splits = import_pairs(
        "chinese-clip",
        [tmp_path],
        tmp_path / "out",
        on_split=lambda name, rows: totals.append((name, rows)),
    )
    by_name = {split.split: split for split in splits}
    assert (by_name["train"].pairs, by_name["valid"].pairs, by_name["test"].pairs) == (2, 1, 0)
    assert by_name["test"].left_out == {"no_image_ids": (2, ("text 3", "text 4"))}
    assert sorted(totals) == [("test", 2), ("train", 2), ("valid", 1)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tsv")) == [
        "train.tsv",
        "valid.tsv",
    ]


def test_the_names_of_the_original_release_mean_the_same(tmp_path: Path, accepted) -> None:
    write_images(tmp_path / "MR_valid_imgs.tsv")
    texts = write_texts(
        tmp_path / "MR_valid_queries.jsonl", {"query_id": 5, "query_text": "包", "item_ids": ["33"]}
    )
    (split,) = import_pairs("muge", [texts], tmp_path / "out")
    assert split.tsv == tmp_path / "out" / "valid.tsv"
    assert accepted(split)[0] == [("包", IMAGES[33])]


def test_a_missing_or_broken_image_is_counted_and_named(tmp_path: Path) -> None:
    images = write_images(tmp_path / "train_imgs.tsv")
    with images.open("a") as file:
        file.write("99\tnot base64!\nno tab\n")
    write_texts(tmp_path / "train_texts.jsonl", query(1, "包", 33, 404, 99))
    (split,) = import_pairs("muge", [tmp_path], tmp_path / "out")
    assert split.left_out == {
        "missing_image": (1, ("image 404 of text 1",)),
        "bad_base64": (1, ("image 99 of text 1",)),
    }
    assert (split.rows, split.pairs) == (3, 1)


def test_a_query_that_is_no_query_is_counted_with_its_field_and_form(tmp_path: Path) -> None:
    write_images(tmp_path / "train_imgs.tsv")
    bad = {
        "[1]": "a list, not an object",
        '{"text_id": 1}': "no text or query_text",
        '{"text": null}': "text is null, not text",
        '{"text": ["x"]}': "text is a list, not text",
        '{"text": "x", "image_ids": {"a": 1}}': "image_ids has an object, not ids",
        '{"text": "x", "image_ids": [33, null]}': "image_ids has null, not ids",
        '{"query_text": "x", "item_ids": [[33]]}': "item_ids has a list, not ids",
        '{"text": "x", "image_ids": [true]}': "image_ids has true or false, not ids",
        '{"text": NaN}': "text is a number, not text",
    }
    write_texts(tmp_path / "train_texts.jsonl", "{", *bad, "[" * 100_000, "", query(1, "包", 33))
    (split,) = import_pairs("muge", [tmp_path], tmp_path / "out")
    assert split.left_out["bad_json"] == (
        2,
        ("train_texts.jsonl line 1", f"train_texts.jsonl line {len(bad) + 2}"),
    )
    assert (split.rows, split.pairs) == (len(bad) + 3, 1)
    assert split.left_out["bad_field"].rows == len(bad)
    assert (
        split.left_out["bad_field"].names
        == tuple(
            f"train_texts.jsonl line {line}: {form}" for line, form in enumerate(bad.values(), 2)
        )[:5]
    )
    names = [
        chinese_clip._parse_query(json.loads(line), "line").name.removeprefix("line: ")  # type: ignore[union-attr]
        for line in bad
    ]
    assert names == list(bad.values())


FORMS_OF_IDS = [33, 33.0, "33", " 33 ", "33.0", [33], [33.0], ["33"], [" 33"], ["33.0"]]


@pytest.mark.faults(kind="F3", trials=len(FORMS_OF_IDS))
def test_ids_and_texts_of_every_form_are_pairs(tmp_path: Path, accepted) -> None:
    write_images(tmp_path / "train_imgs.tsv")
    queries = [
        {"text_id": place, "text": f"包 {place}", "image_ids": form}
        for place, form in enumerate(FORMS_OF_IDS)
    ]
    numbers = [{"text_id": 9.0, "text": text, "image_ids": [33]} for text in (2026, 9.5)]
    write_texts(tmp_path / "train_texts.jsonl", *queries, *numbers)
    (split,) = import_pairs("muge", [tmp_path], tmp_path / "out")
    pairs, side = accepted(split)
    assert [pair.image for pair in pairs] == [IMAGES[33]] * (len(FORMS_OF_IDS) + 2)
    assert [pair.caption for pair in pairs[-2:]] == ["2026", "9.5"]
    assert set(side["id"]) == {"33"} and side["text_id"][-1] == "9"


def test_floats_for_the_ids_of_the_images_are_the_same_ids(tmp_path: Path) -> None:
    images = write_images(tmp_path / "train_imgs.tsv")
    images.write_bytes(images.read_bytes().replace(b"\t", b".0\t"))
    write_texts(tmp_path / "train_texts.jsonl", query(1, "包", *IMAGES))
    (split,) = import_pairs("muge", [tmp_path], tmp_path / "out")
    assert (split.pairs, split.left_out) == (3, {})


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_the_same_as_its_lines(tmp_path: Path, accepted, indent: int | None) -> None:
    write_images(tmp_path / "train_imgs.tsv")
    array = json.dumps([query(1, "包", 33, 517602), 7], indent=indent, ensure_ascii=False)
    (tmp_path / "train_texts.jsonl").write_text(f"\ufeff {array}\n", encoding="utf-8")
    (split,) = import_pairs("muge", [tmp_path], tmp_path / "out")
    assert [pair.image for pair in accepted(split)[0]] == [IMAGES[33], IMAGES[517602]]
    assert split.left_out == {
        "bad_field": (1, ("train_texts.jsonl entry 2: a number, not an object",))
    }


def test_crlf_a_bom_and_the_url_safe_alphabet_change_no_byte_of_an_image(
    tmp_path: Path, accepted
) -> None:
    images = write_images(tmp_path / "train_imgs.tsv", ending="\r\n")
    url_safe = images.read_bytes().replace(b"+", b"-").replace(b"/", b"_").removesuffix(b"\r\n")
    images.write_bytes(b"\xef\xbb\xbf" + url_safe)
    write_texts(tmp_path / "train_texts.jsonl", query(1, "包", *IMAGES))
    pairs, _ = accepted(import_pairs("muge", [tmp_path], tmp_path / "out")[0])
    assert [pair.image for pair in pairs] == list(IMAGES.values())


def test_a_split_lacking_a_file_is_refused(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "train_texts.jsonl", query(1, "包", 33))
    with pytest.raises(DataError, match=r"no train_imgs\.tsv beside it"):
        import_pairs("muge", [texts], tmp_path / "out")
    texts.unlink()
    write_images(tmp_path / "train_imgs.tsv")
    with pytest.raises(DataError, match=r"train_imgs\.tsv: no \{split\}_texts\.jsonl"):
        import_pairs("muge", [tmp_path], tmp_path / "out")
