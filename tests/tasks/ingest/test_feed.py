"""A feed of all pairs: next month's products stand where last month's stood."""

from pathlib import Path

import pytest

from model.errors import DataError
from model.pairs.split import AS_GIVEN, BY_PRODUCT
from tasks.ingest.feed import split_feed, split_rule


def feed(folder: Path, products: range, with_ids: bool = True) -> Path:
    folder.mkdir()
    lines = [f"item {product}, view {view}\tAAAA" for product in products for view in range(2)]
    (folder / "feed.tsv").write_text("\n".join(lines) + "\n")
    if with_ids:
        rows = [f'p{product},"a, b"' for product in products for _ in range(2)]
        (folder / "feed.products.csv").write_text("\n".join(["id,colour", *rows]) + "\n")
    return folder / "feed.tsv"


@pytest.mark.parametrize("with_ids", [True, False])
def test_what_was_test_stays_test_when_the_feed_grows(tmp_path: Path, with_ids: bool) -> None:
    splits = []
    for month, products in enumerate((range(100), range(50, 300))):
        out = tmp_path / f"out-{month}"
        done: list[int] = []
        source = feed(tmp_path / f"feed-{month}", products, with_ids)
        digests = split_feed(source, out, done.append)
        assert sum(done) == source.stat().st_size
        assert sorted(digests) == sorted(path.name for path in out.iterdir())
        assert split_rule(out) == BY_PRODUCT
        files = {name: (out / f"{name}.tsv").read_text() for name in ("train", "valid", "test")}
        splits.append({name: set(text.splitlines()) for name, text in files.items()})
    assert sum(map(len, splits[1].values())) == 500
    old, new = splits
    everywhere = set.union(*new.values())
    for name, lines in old.items():
        assert lines & everywhere <= new[name]


def test_splits_that_somebody_gave_are_called_so(tmp_path: Path) -> None:
    source = feed(tmp_path / "feed", range(100))
    split_feed(source, tmp_path / "out", lambda _: None)
    (tmp_path / "out" / "test.tsv").rename(tmp_path / "out" / "moved")
    (tmp_path / "out" / "test.products.csv").unlink()
    (tmp_path / "out" / "valid.tsv").rename(tmp_path / "out" / "test.tsv")
    assert split_rule(tmp_path / "out") == AS_GIVEN


def test_a_feed_of_too_few_products_is_refused(tmp_path: Path) -> None:
    source = feed(tmp_path / "feed", range(3))
    with pytest.raises(DataError, match=r"none of its 6 lines belongs to valid or test"):
        split_feed(source, tmp_path / "out", lambda _: None)
