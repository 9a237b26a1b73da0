"""Fashion-Gen's HDF5: pixels become JPEG, Latin-1 UTF-8, and a product keeps its id in any pose."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from model.errors import DataError
from model.importers import fashion_gen
from model.importers.importing import import_pairs
from tests.golden import picture

ROWS = 5


def pixels(rows: int = ROWS, side: int = 32) -> np.ndarray:
    return np.stack([np.asarray(picture(side, side, seed)) for seed in range(rows)])


def column(*texts: str) -> np.ndarray:
    return np.array([[text.encode("latin-1")] for text in texts], dtype="S100")


def write_h5(path: Path, images: np.ndarray | None = None, **changes: Any) -> Path:
    """Write a file in the layout of the published ones; a change to None leaves a dataset out."""
    datasets = {
        "index": np.arange(ROWS)[:, None],
        "input_image": pixels() if images is None else images,
        "input_description": column(
            "Long dress in café.", "Long dress in café.", "Felt hat,\r\nnavy.", "", ""
        ),
        "input_name": column("Robe été", "Robe été", "Hat", "Plain bag", ""),
        "input_category": column("DRESSES", "DRESSES", "HATS", "BAGS", "BAGS"),
        "input_subcategory": column("LONG", "LONG", "HATS", "TOTES", "TOTES"),
        "input_productID": np.array([[12], [12], [7], [9], [8]]),
        "input_brand": column("A", "A", "B", "C", "C"),
        "input_msrpUSD": np.full((ROWS, 1), 10.0),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            if values is not None:
                file.create_dataset(name, data=values)
    return path


def test_every_pose_becomes_a_pair_of_its_product(tmp_path: Path, accepted) -> None:
    path = write_h5(tmp_path / "fashiongen_256_256_train.h5")
    (split,) = import_pairs("fashion-gen", [path], tmp_path / "out")
    pairs, table = accepted(split)
    captions = ["Long dress in café.", "Long dress in café.", "Felt hat, navy.", "Plain bag"]
    assert [pair.caption for pair in pairs] == captions
    assert table == {
        "id": ["12", "12", "7", "9"],
        "title": ["Robe été", "Robe été", "Hat", "Plain bag"],
        "category": ["DRESSES", "DRESSES", "HATS", "BAGS"],
        "subcategory": ["LONG", "LONG", "HATS", "TOTES"],
        "brand": ["A", "A", "B", "C"],
    }
    assert (split.split, split.rows, split.left_out) == ("train", 5, {"no_caption": (1, ("8",))})


def test_the_image_survives_the_encoding(tmp_path: Path, accepted) -> None:
    path = write_h5(tmp_path / "train.h5")
    pairs, _ = accepted(import_pairs("fashion-gen", [path], tmp_path / "out")[0])
    for pair, source in zip(pairs, pixels(), strict=False):
        image = Image.open(io.BytesIO(pair.image))
        assert (image.format, image.size) == ("JPEG", (32, 32))
        assert np.abs(np.asarray(image).astype(float) - source).mean() < 2
    low, _ = accepted(import_pairs("fashion-gen", [path], tmp_path / "low", {"quality": "30"})[0])
    assert len(low[0].image) < len(pairs[0].image)


def test_the_validation_file_becomes_test_because_the_benchmark_uses_it(
    tmp_path: Path,
) -> None:
    write_h5(tmp_path / "fashiongen_256_256_train.h5")
    write_h5(tmp_path / "fashiongen_256_256_validation.h5")
    totals = []
    splits = import_pairs(
        "fashion-gen",
        [tmp_path],
        tmp_path / "out",
        on_split=lambda name, rows: totals.append((name, rows)),
    )
    assert [split.tsv for split in splits] == [
        tmp_path / "out" / "train.tsv",
        tmp_path / "out" / "test.tsv",
    ]
    assert totals == [("train", 5), ("test", 5)]


@pytest.mark.parametrize("chunks", [None, (2, 32, 32, 3), (70, 8, 8, 1)])
def test_blocks_of_any_layout_keep_the_order(
    chunks: tuple[int, ...] | None, tmp_path: Path, accepted
) -> None:
    rows = 150
    path = write_h5(
        tmp_path / "train.h5",
        input_image=None,
        input_description=column(*(f"dress {row}" for row in range(rows))),
        input_productID=np.arange(rows),
        **dict.fromkeys(("input_name", "input_category", "input_subcategory", "input_brand")),
    )
    images = np.broadcast_to(
        np.arange(rows, dtype=np.uint8)[:, None, None, None], (rows, 32, 32, 3)
    )
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "input_image", data=images, chunks=chunks, compression="gzip" if chunks else None
        )
    pairs, table = accepted(import_pairs("fashion-gen", [path], tmp_path / "out")[0])
    assert table == {"id": [str(row) for row in range(rows)]}
    assert [pair.caption for pair in pairs] == [f"dress {row}" for row in range(rows)]
    greys = [np.asarray(Image.open(io.BytesIO(pair.image))).mean() for pair in pairs]
    assert np.abs(np.array(greys) - np.arange(rows)).max() < 1.5


def test_a_block_never_holds_more_than_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_h5(tmp_path / "train.h5")
    monkeypatch.setattr(fashion_gen, "MAX_BLOCK_BYTES", 2 * 32 * 32 * 3)
    blocks = fashion_gen._read_blocks(path, fashion_gen.Options())
    assert [len(images) for images, _ in blocks] == [2, 2, 1]


def test_another_text_can_be_the_caption(tmp_path: Path, accepted) -> None:
    texts = column("DRESSES Long", "", "HATS", "BAGS", "BAGS")
    path = write_h5(tmp_path / "train.h5", input_concat_description=texts)
    options = {"caption": "concat_description"}
    pairs, _ = accepted(import_pairs("fashion-gen", [path], tmp_path / "out", options)[0])
    assert [pair.caption for pair in pairs] == ["DRESSES Long", "Robe été", "HATS", "BAGS", "BAGS"]
    with pytest.raises(
        DataError, match=r"no dataset input_descripton; did you mean 'input_description'\?"
    ):
        import_pairs("fashion-gen", [path], tmp_path / "out", {"caption": "descripton"})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"input_productID": None}, r"no dataset input_productID.*found: index"),
        (
            {"input_productID": np.zeros((4, 1))},
            r"input_productID has shape \(4, 1\) beside 5 images",
        ),
        ({"input_image": np.zeros((5, 8, 8, 3))}, r"input_image is float64"),
        (
            {"input_image": np.zeros((5, 8, 8), np.uint8)},
            r"input_image is uint8 \(5, 8, 8\), expected",
        ),
        (
            {"input_image": np.zeros((5, 0, 8, 3), np.uint8)},
            r"input_image is uint8 \(5, 0, 8, 3\), expected",
        ),
    ],
)
def test_a_file_of_another_shape_is_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = write_h5(tmp_path / "train.h5", **changes)
    with pytest.raises(DataError, match=sentence):
        import_pairs("fashion-gen", [path], tmp_path / "out")


def test_what_is_no_hdf5_or_was_cut_is_one_sentence(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "train.h5")
    whole = path.read_bytes()
    for data in (b"", b"not HDF5", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"train\.h5: cannot be read"):
            import_pairs("fashion-gen", [path], tmp_path / "out")


def test_a_file_cannot_make_us_read_another_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(5 * 8 * 8 * 3))
    other = write_h5(tmp_path / "other.h5")
    path = write_h5(tmp_path / "train.h5", input_image=None)
    sources = {
        "external": lambda file: file.create_dataset(
            "input_image", (5, 8, 8, 3), np.uint8, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        ),
        "link": lambda file: file.__setitem__(
            "input_image", h5py.ExternalLink(str(other), "input_image")
        ),
    }
    for plant in sources.values():
        with h5py.File(path, "a") as file:
            file.pop("input_image", None)
            plant(file)
        with pytest.raises(DataError, match="input_image does not hold its values itself"):
            import_pairs("fashion-gen", [path], tmp_path / "out")
