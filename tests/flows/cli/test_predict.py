"""A file of captions or of images becomes a file of embeddings, in EasyNLP's form line by line."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from flows.__main__ import main
from model.embeddings.embed import embed_captions, embed_encoded_images
from model.towers.create import create_towers, lengthen_towers
from model.towers.folder import load_towers, save_towers
from model.towers.towers import Towers
from tests.chinese import ENGLISH, chinese, write_chinese_model
from tests.tiny import drawn_jpeg, profiled


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with Chinese towers, and TSVs of eight pairs, their captions and images."""
    folder = tmp_path_factory.mktemp("shop")
    save_towers(create_towers(write_chinese_model(folder), "cpu"), folder / "model")
    profiled(
        folder / "pairs.tsv",
        [(chinese(caption), drawn_jpeg(caption, 1)) for caption in ENGLISH[:8]],
    )
    lines = (folder / "pairs.tsv").read_bytes().splitlines()
    for name, field in (("texts", 0), ("images", 1)):
        (folder / f"{name}.tsv").write_bytes(
            b"".join(line.split(b"\t")[field] + b"\n" for line in lines)
        )
    return folder


@pytest.fixture(scope="module")
def towers(shop: Path) -> Towers:
    return load_towers(shop / "model", "cpu")


def predict(shop: Path, name: str, out: Path, *options: str) -> int:
    arguments = [
        "--model",
        str(shop / "model"),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--batch-size",
        "3",
        *options,
    ]
    return main(["predict", str(shop / name), *arguments])


def expected(towers: Towers, kind: str) -> torch.Tensor:
    if kind == "texts":
        return embed_captions(towers, [chinese(caption) for caption in ENGLISH[:8]], batch_size=3)
    return embed_encoded_images(
        towers, [drawn_jpeg(caption, 1) for caption in ENGLISH[:8]], batch_size=3
    )


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_easynlps_form_is_one_row_of_floats_a_line_as_its_predictor_writes_them(
    shop: Path, towers: Towers, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(shop, f"{kind}.tsv", tmp_path / "feat.tsv", "--format", "easynlp") == 0
    embeddings = expected(towers, kind).numpy()
    theirs = "".join("\t".join([str(number) for number in row]) + "\n" for row in embeddings)
    assert (tmp_path / "feat.tsv").read_text() == theirs
    read = np.array([line.split("\t") for line in theirs.splitlines()], dtype=np.float32)
    assert np.array_equal(read, embeddings), "nothing is lost"
    assert "8 captions" in capsys.readouterr().out or kind == "images"


def test_parquet_has_a_row_a_line_with_its_number(
    shop: Path, towers: Towers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (shop / "pairs.tsv").read_bytes().splitlines(keepends=True)
    (tmp_path / "some.tsv").write_bytes(
        b"".join([*lines[:2], b"no picture\tnothing\n", *lines[2:]])
    )
    options = [
        "--model",
        str(shop / "model"),
        "--out",
        str(tmp_path / "some.parquet"),
        "--device",
        "cpu",
    ]
    assert main(["predict", str(tmp_path / "some.tsv"), *options]) == 0
    assert "1 lines faulty (line 3 not_an_image) → " in capsys.readouterr().out
    table = pq.read_table(tmp_path / "some.parquet")
    assert (
        table["line"].to_pylist() == [1, 2, 4, 5, 6, 7, 8, 9] and table["id"][2].as_py() == "some-4"
    )
    for kind, column in (("texts", "text_embedding"), ("images", "image_embedding")):
        read = np.stack(table[column].to_numpy())
        np.testing.assert_allclose(read, expected(towers, kind).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("pairs.tsv", None, "keep one column"),
        ("holes.tsv", b"red\n\nblue\n", "1 lines cannot be embedded (line 2 empty_caption)"),
        (
            "tail.tsv",
            b"red\nblue\n \n \n",
            "2 lines cannot be embedded (line 3 empty_caption, line 4 empty_caption)",
        ),
        (
            "none.tsv",
            b"\x01\n\x02\n",
            "none of its 2 lines can be embedded (line 1 control_byte, line 2 control_byte)",
        ),
        ("texts.csv", b"red\nblue\n", "texts.csv: is a CSV (red), not lines of captions"),
        ("table.tsv", b"id;Title;image\n1;red;1.jpg\n", "is a CSV (id;Title;image)"),
        ("prose.tsv", b"a red dress, the caption of all\n\x01\n", "(line 2 control_byte)"),
        ("absent.tsv", None, "absent.tsv"),
    ],
)
def test_what_has_no_row_a_line_is_refused_and_nothing_is_written(
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    sentence: str,
) -> None:
    path = tmp_path / name if content is not None else shop / name
    if content is not None:
        path.write_bytes(content)
    arguments = [
        "--model",
        str(shop / "model"),
        "--out",
        str(tmp_path / "feat.tsv"),
        "--format",
        "easynlp",
    ]
    assert main(["predict", str(path), *arguments]) == 1
    assert sentence in capsys.readouterr().err and not (tmp_path / "feat.tsv").exists()


def test_a_file_of_one_mistake_is_refused_with_its_cause(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split(b"\t") for line in (shop / "pairs.tsv").read_bytes().splitlines()]
    swapped = tmp_path / "swapped.tsv"
    swapped.write_bytes(b"".join(image + b"\t" + caption + b"\n" for caption, image in lines))
    arguments = ["--model", str(shop / "model"), "--out", str(tmp_path / "feat.parquet")]
    assert main(["predict", str(swapped), *arguments]) == 1
    refusal = capsys.readouterr().err
    assert "none of its 8 lines can be embedded (line 1 bad_base64, " in refusal
    assert "likely cause: its lines are base64 first and caption second" in refusal


@pytest.mark.parametrize(
    ("form", "name"), [("parquet", "feat.csv"), ("parquet", "feat.TSV"), ("easynlp", "feat.csv")]
)
def test_a_file_is_never_named_as_what_it_is_not(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, name: str
) -> None:
    assert predict(shop, "texts.tsv", tmp_path / name, "--format", form) == 1
    ending = {"parquet": ".parquet", "easynlp": ".tsv"}[form]
    assert f"{form} is written, not {name[-3:]}; name it {ending}" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_an_unknown_model_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "nothing", "--out", str(tmp_path / "feat.parquet")]
    assert main(["predict", str(shop / "texts.tsv"), *arguments]) == 1
    assert "nothing" in capsys.readouterr().err


def test_a_chinese_model_reads_as_many_tokens_as_asked(
    shop: Path, towers: Towers, tmp_path: Path
) -> None:
    caption, read = "红色的连衣裙很好看" * 5, {}
    (tmp_path / "long.tsv").write_text(f"{caption}\n", encoding="utf-8")
    for length in (16, 48):
        out = tmp_path / f"{length}.tsv"
        options = [
            "--format",
            "easynlp",
            "--context-length",
            str(length),
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        assert (
            main(["predict", str(tmp_path / "long.tsv"), "--model", str(shop / "model"), *options])
            == 0
        )
        read[length] = out.read_text()
    whole = embed_captions(lengthen_towers(towers, 48), [caption])[0].numpy()
    assert read[48] == "\t".join(map(str, whole)) + "\n" != read[16]
