"""The sample keeps its promises: as committed in ``sample-remote/`` and as drawn anew in
miniature."""

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from model.errors import ConfigError
from scripts.draw_sample import (
    FILES,
    SIDE_TABLE_HEADER,
    SIZES,
    choose_products,
    main,
    parse_sizes,
    write_sample,
)
from scripts.fabric import COLOURS, PATTERNS
from scripts.garments import draw_product
from scripts.products import RANGES, WORDINGS, Product, caption_product

ROOT = Path(__file__).resolve().parent.parent
MINIATURE = {"pretrain": 9, "train": 8, "valid": 3, "test": 4}
SLOTS = ("garment", "colour", "pattern", "sleeve", "neck", "cut", "detail")


class Line(NamedTuple):
    caption: str
    jpeg: bytes


def remote_object(md5: str) -> bytes:
    return (ROOT / "sample-remote" / "files" / "md5" / md5[:2] / md5[2:]).read_bytes()


@pytest.fixture(scope="module")
def committed() -> dict[str, bytes]:
    """The files of the data version that ``data.dvc`` names, by their path in ``data/``."""
    version = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]["md5"]
    if not (ROOT / "sample-remote" / "files" / "md5" / version[:2] / version[2:]).exists():
        pytest.skip("data.dvc names a data version of the team's own")
    return {
        entry["relpath"]: remote_object(entry["md5"])
        for entry in json.loads(remote_object(version))
    }


@pytest.fixture(scope="module")
def splits(committed: dict[str, bytes]) -> dict[str, list[Line]]:
    return {
        split: [line for name in names for line in parse(committed[name])]
        for split, names in FILES.items()
    }


def parse(tsv: bytes) -> list[Line]:
    assert tsv.endswith(b"\n")
    rows = [row.split(b"\t") for row in tsv[:-1].split(b"\n")]
    return [
        Line(caption.decode(), base64.b64decode(image, validate=True)) for caption, image in rows
    ]


def drawn_pixels(product: Product) -> np.ndarray:
    return np.asarray(draw_product(product, Random(3)), dtype=np.float64)


# ---- the committed sample ----


def test_every_object_of_the_remote_has_the_hash_that_names_it():
    objects = [path for path in (ROOT / "sample-remote").rglob("*") if path.is_file()]
    assert objects
    for path in objects:
        assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.stem


def test_the_splits_have_their_sizes_and_stay_under_6_mb(committed, splits):
    assert {split: len(lines) for split, lines in splits.items()} == SIZES
    assert sum(len(data) for name, data in committed.items() if name.endswith(".tsv")) < 6_000_000


def test_no_caption_and_no_image_occurs_twice_in_any_split_or_across_two(splits):
    lines = [line for split in splits.values() for line in split]
    assert len({line.caption.casefold() for line in lines}) == len(lines)
    assert len({line.jpeg for line in lines}) == len(lines)


def test_every_image_is_a_square_jpeg_of_96_pixels_with_full_colour_resolution(splits):
    for line in splits["valid"] + splits["test"]:
        image = Image.open(io.BytesIO(line.jpeg), formats=["JPEG"])
        image.load()
        assert (image.size, image.mode) == ((96, 96), "RGB")
        assert {tuple(component[1:3]) for component in image.layer} == {(1, 1)}


def test_every_side_table_tells_of_its_tsv_line_by_line(committed):
    ids = []
    for name in (name for names in FILES.values() for name in names):
        table = list(
            csv.reader(io.StringIO(committed[name.replace(".tsv", ".products.csv")].decode()))
        )
        lines = parse(committed[name])
        assert tuple(table[0]) == SIDE_TABLE_HEADER
        assert len(table) == len(lines) + 1
        for line, row in zip(lines, table[1:], strict=True):
            identity, title, category, subcategory, colour, pattern = row
            assert line.caption.startswith(title)
            assert colour in line.caption.lower()
            assert (category, subcategory) in {
                (stock.category, stock.subcategory) for stock in RANGES.values()
            }
            assert pattern in PATTERNS
            ids.append(identity)
    assert len(set(ids)) == len(ids) == sum(SIZES.values())


def test_every_word_of_the_test_captions_is_met_often_in_training(splits):
    seen = Counter(
        word
        for split in ("pretrain", "train")
        for line in splits[split]
        for word in words(line.caption)
    )
    rare = {word for line in splits["test"] for word in words(line.caption) if seen[word] < 8}
    assert not rare


def words(caption: str) -> list[str]:
    return caption.casefold().replace(".", " ").split()


# ---- how it is drawn ----


def test_the_test_split_asks_for_new_combinations_of_attributes_that_training_shows_often():
    products = choose_products(sum(SIZES.values()), Random("0/products"))
    seen, test = products[: SIZES["pretrain"] + SIZES["train"]], products[-SIZES["test"] :]
    assert not set(test) & set(seen)
    for slot in SLOTS:
        counts = Counter((product.garment, getattr(product, slot)) for product in seen)
        assert all(counts[product.garment, getattr(product, slot)] >= 2 for product in test)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    contents = []
    for folder, seed in (("first", 0), ("again", 0), ("other", 1)):
        write_sample(tmp_path / folder, MINIATURE, seed)
        files = sorted((tmp_path / folder).rglob("*.*"))
        contents.append({path.relative_to(tmp_path / folder): path.read_bytes() for path in files})
    assert len(contents[0]) == 10
    assert contents[0] == contents[1]
    assert all(contents[0][name] != contents[2][name] for name in contents[0])


def test_a_miniature_has_the_sizes_asked_for(tmp_path):
    files = write_sample(tmp_path, MINIATURE)
    assert [path.read_bytes().count(b"\n") for path in files] == [4, 5, 8, 3, 4]


def test_captions_of_different_products_differ_however_they_are_phrased():
    products = choose_products(600, Random(5))
    captions: dict[str, Product] = {}
    for product in products:
        for phrasing in range(6):
            caption = caption_product(product, Random(phrasing))
            assert captions.setdefault(caption, product) == product


def test_a_caption_names_every_attribute_but_plain_cloth():
    for product in choose_products(300, Random(6)):
        caption = caption_product(product, Random(7)).casefold()
        assert product.colour in caption
        assert any(noun.casefold() in caption for noun in RANGES[product.garment].nouns)
        for attribute in (
            product.pattern,
            product.sleeve,
            product.neck,
            product.cut,
            product.detail,
        ):
            wording = WORDINGS.get(attribute)
            ways = (*wording.adjectives, *wording.phrases) if wording else ("",)
            assert any(way.casefold() in caption for way in ways), (attribute, caption)


@pytest.mark.parametrize("garment", RANGES)
def test_every_attribute_that_a_caption_tells_apart_can_be_seen(garment):
    stock = RANGES[garment]
    options = {
        "sleeve": stock.sleeves,
        "neck": stock.necks,
        "cut": stock.cuts,
        "detail": stock.details,
    }
    plain = Product(garment, "violet", "solid", *(values[0] for values in options.values()))
    for slot, values in {**options, "colour": list(COLOURS), "pattern": list(PATTERNS)}.items():
        pictures = [drawn_pixels(replace(plain, **{slot: value})) for value in values]
        for index, picture in enumerate(pictures):
            for other in pictures[:index]:
                changed = np.abs(picture - other).max(axis=-1) > 12
                # A chest pocket or a collar, the smallest of them, covers some 60 of 9,216 pixels.
                assert changed.sum() >= 60, (slot, values)


def test_pictures_of_two_colours_differ_in_the_mean_too():
    shirts = [
        drawn_pixels(Product("shirt", colour, "solid", "long sleeve", "shirt collar", "", ""))
        for colour in COLOURS
    ]
    for index, picture in enumerate(shirts):
        assert all(np.abs(picture - other).mean() > 2.5 for other in shirts[:index])


# ---- the command ----


def test_the_command_says_in_one_line_what_it_wrote(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--sizes", "pretrain=2,train=1,valid=1,test=1"]) == 0
    assert capsys.readouterr().out.startswith("5 pairs in 5 TSV files, 0.0 MB, under ")


def test_splits_that_are_not_named_keep_their_size():
    assert parse_sizes("train=40") == {**SIZES, "train": 40}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("trian=4", "did you mean 'train'"),
        ("train=many", "not of the form train=40"),
        ("train=-1", "negative"),
        ("pretrain=100000", "at most"),
    ],
)
def test_a_wrong_size_is_refused_in_one_sentence(tmp_path, sizes, message):
    with pytest.raises(ConfigError, match=message):
        write_sample(tmp_path, parse_sizes(sizes))
    assert main(["--out", str(tmp_path), "--sizes", sizes]) == 1
    assert not list(tmp_path.iterdir())
