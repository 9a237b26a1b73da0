"""A product stays where it is, whatever else a feed holds."""

from collections import Counter
from pathlib import Path

import pytest

from model.errors import DataError
from model.importers.importing import import_pairs
from model.pairs.split import place_lines, place_product


def test_a_tenth_of_the_products_is_test_and_a_twentieth_valid() -> None:
    places = Counter(place_product(f"product {number}") for number in range(20_000))
    assert places["test"] == pytest.approx(2000, rel=0.1)
    assert places["valid"] == pytest.approx(1000, rel=0.1)


def test_the_place_of_a_product_is_that_of_all_versions_so_far() -> None:
    # A change here deals all products of every shop anew.
    products = [f"p{number}" for number in range(60)]
    places = {name: place_product(name) for name in products}
    assert [name for name in products if places[name] == "test"] == ["p13", "p22", "p50"]
    assert [name for name in products if places[name] == "valid"] == ["p19", "p42"]


def test_lines_go_by_the_id_of_their_product_or_else_by_themselves(tmp_path: Path) -> None:
    tsv = tmp_path / "feed.tsv"
    tsv.write_bytes(b"a\tAAAA\nb\tBBBB\nc\tCCCC\n")
    by_line = [place_product(line) for line in (b"a\tAAAA", b"b\tBBBB", b"c\tCCCC")]
    assert [place for _, place in place_lines(tsv, 1000)] == by_line
    (tmp_path / "feed.products.csv").write_text("id,colour\np1,red\n,blue\np3,red\n")
    places = [place for _, place in place_lines(tsv, 1000)]
    assert places == [place_product("p1"), by_line[1], place_product("p3")]
    (tmp_path / "feed.products.csv").write_text("id,colour\np1,red\np2,red\n")
    with pytest.raises(DataError, match="2 rows, not one a line"):
        list(place_lines(tsv, 1000))


def test_an_import_by_product_gives_each_product_its_place(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = ["sku,title,image"]
    for number in range(200):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(b"\xff\xd8 %d" % number)
        rows.append(f"p{number // 2},shirt {number},{number}.jpg")
    (tmp_path / "feed.csv").write_text("\n".join(rows) + "\n")
    options = {"images": tmp_path / "images", "assign": "product"}
    imported = import_pairs("csv", [tmp_path / "feed.csv"], tmp_path / "out", options)
    assert sum(split.pairs for split in imported) == 200
    for split in imported:
        ids = (tmp_path / "out" / f"{split.split}.products.csv").read_text().splitlines()[1:]
        assert {place_product(row.split(",")[0]) for row in ids} == {split.split}
