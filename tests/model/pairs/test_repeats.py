"""Every accepted line that repeats an earlier one, or one of test, is named with that line."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.profile import profile_files, write_profile
from model.pairs.repeats import Profiled, leaks, read_repeats, repeats
from model.pairs.splits import read_side_table
from model.storage.tables import write_table
from tests.golden import encoded, picture
from tests.model.pairs.test_tsv import pair_line


def large(seed: int) -> Image.Image:
    return picture(96, 96, seed)


def jpeg(seed: int, quality: int = 90) -> bytes:
    return encoded(large(seed), quality=quality)


def profiled(folder: Path, name: str, lines: list[bytes], ids: list[str] | None = None) -> Profiled:
    tsv = folder / f"{name}.tsv"
    tsv.write_bytes(b"\n".join(lines))
    files = profile_files(folder / "report", name)
    write_profile(tsv, files, DataConfig(), processes=1)
    return Profiled(tsv, files.table, None if ids is None else pa.chunked_array([ids], pa.string()))


def test_a_line_is_named_once_by_the_strongest_thing_that_it_repeats(tmp_path: Path) -> None:
    split = profiled(
        tmp_path,
        "train",
        [
            pair_line("red dress", jpeg(1)),
            pair_line("RED  dress!", jpeg(1)),
            pair_line("blue dress", jpeg(1)),
            pair_line("green dress", jpeg(1, quality=60)),
            pair_line("red dress", jpeg(2)),
            b"no tab",
            pair_line("white shoe", jpeg(3)),
        ],
    )
    assert repeats(split).to_pylist() == [
        {"kind": "pair", "line": 2, "of_line": 1},
        {"kind": "image", "line": 3, "of_line": 1},
        {"kind": "near_image", "line": 4, "of_line": 1},
        {"kind": "caption", "line": 5, "of_line": 1},
    ]


def test_whatever_is_shared_with_test_is_a_leak_of_its_kind(tmp_path: Path) -> None:
    test = profiled(
        tmp_path,
        "test",
        [
            pair_line("Red Dress", jpeg(1)),
            pair_line("red dress", jpeg(2)),
            pair_line("a bag", jpeg(3)),
            b"bad",
        ],
        ["p1", "p2", "", "p4"],
    )
    train = profiled(
        tmp_path,
        "train",
        [
            pair_line("red, dress", jpeg(7)),
            pair_line("a hat", jpeg(3)),
            pair_line("a cap", jpeg(2, quality=50)),
            pair_line("a coat", jpeg(8)),
            pair_line("a sock", jpeg(9)),
            pair_line("a shoe", jpeg(10)),
        ],
        ["p7", "p8", "p9", "p2", "", "p4"],
    )
    assert leaks(train, test).to_pylist() == [
        {"kind": "caption", "line": 1, "of_line": 1},
        {"kind": "image", "line": 2, "of_line": 3},
        {"kind": "near_image", "line": 3, "of_line": 2},
        {"kind": "product", "line": 4, "of_line": 2},
    ]


def test_without_a_side_table_on_both_sides_products_are_not_compared(tmp_path: Path) -> None:
    test = profiled(tmp_path, "test", [pair_line("red dress", jpeg(1))], ["p1"])
    train = profiled(tmp_path, "train", [pair_line("a bag", jpeg(2))])
    assert len(leaks(train, test)) == 0


def test_leaks_are_the_same_however_many_lines_are_looked_at_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = profiled(tmp_path, "test", [pair_line(f"caption {n}", jpeg(n)) for n in range(6)])
    lines = [pair_line(f"words {n}", jpeg(n % 9, quality=40 + n)) for n in range(12)]
    train = profiled(tmp_path, "train", [*lines, pair_line("caption 3", jpeg(11))])
    whole = leaks(train, test)
    assert Counter(whole["kind"].to_pylist()) == {"near_image": 9, "caption": 1}
    monkeypatch.setattr("model.pairs.repeats.LINES_AT_A_TIME", 2)
    assert leaks(train, test).equals(whole)


def test_a_look_alike_by_its_signature_alone_is_no_leak(tmp_path: Path) -> None:
    plain = Image.new("RGB", (96, 96), "white")
    marked = plain.copy()
    marked.paste("black", (45, 45, 49, 49))
    plain_line, marked_line = (
        pair_line(name, encoded(image, "PNG")) for name, image in (("a", plain), ("b", marked))
    )
    assert (
        len(
            leaks(
                profiled(tmp_path, "train", [marked_line]), profiled(tmp_path, "test", [plain_line])
            )
        )
        == 0
    )


def test_a_tsv_that_changed_since_its_profile_is_refused_when_its_images_are_compared(
    tmp_path: Path,
) -> None:
    split = profiled(
        tmp_path, "train", [pair_line("a", jpeg(1)), pair_line("b", jpeg(1, quality=70))]
    )
    split.tsv.write_bytes(b"x" * split.tsv.stat().st_size)
    with pytest.raises(DataError, match="not the file that was profiled"):
        repeats(split)


def test_a_missing_damaged_or_foreign_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.leaks.parquet"
    with pytest.raises(DataError, match="validate that data version again"):
        read_repeats(path)
    split = profiled(tmp_path, "train", [pair_line("a", jpeg(1)), pair_line("a", jpeg(1))])
    found = repeats(split)
    write_table(found, path)
    assert read_repeats(path).equals(found)
    write_table(pa.table({"line": np.arange(3)}), path)
    with pytest.raises(DataError, match="not what this version writes"):
        read_repeats(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="missing or damaged"):
        read_repeats(path)


@pytest.mark.real
@pytest.mark.skipif(
    "REAL_PAIRS" not in os.environ, reason="REAL_PAIRS names no folder of real pairs"
)
def test_of_real_pairs_titles_leak_and_no_image_does(tmp_path: Path) -> None:
    found = {}
    for name in ("train", "test"):
        tsv = Path(os.environ["REAL_PAIRS"]) / "fashion-products" / f"{name}.tsv"
        files = profile_files(tmp_path, name)
        write_profile(tsv, files, DataConfig())
        products = read_side_table(tsv, required=True)
        assert products is not None
        found[name] = Profiled(tsv, files.table, products["id"])
    assert Counter(leaks(found["train"], found["test"])["kind"].to_pylist()) == {"caption": 23}
    kinds = Counter(repeats(found["train"])["kind"].to_pylist())
    assert kinds == {"caption": 2433, "pair": 92, "image": 30, "near_image": 3}
