"""One mistake in a whole file is named with what to do, and a sound file gets no such sentence."""

import base64
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from model.config.sections import DataConfig
from model.importers.importing import import_pairs
from model.pairs.mistakes import likely_mistake
from model.pairs.profile import profile_files, write_profile
from tests.golden import encoded, golden_lines, jpeg, picture

PAIRS = [(f"red dress {row}", jpeg(seed=row)) for row in range(12)]


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def lines_by(write: Callable[[int, str, bytes], str]) -> str:
    return "".join(write(row, caption, image) + "\n" for row, (caption, image) in enumerate(PAIRS))


SOUND = lines_by(lambda row, caption, image: f"{caption}\t{text_of(image)}")
TIFF, SVG = encoded(picture(), "TIFF"), b'<svg xmlns="http://www.w3.org/2000/svg"/>'
PAGE, ERROR = b"<!DOCTYPE html><html><body>404</body></html>", b'{"error": "not found"}'
MISTAKES = {
    "swapped": (
        lines_by(lambda row, caption, image: f"{text_of(image)}\t{caption}"),
        "base64 first and caption second",
    ),
    "str of bytes": (
        lines_by(lambda row, caption, image: f"{caption}\t{base64.b64encode(image)!r}"),
        "str() of bytes",
    ),
    "header": (f"caption\timage\n{SOUND}", "its first line is a header (caption, image)"),
    "index": (
        lines_by(lambda row, caption, image: f"{row}\t{caption}\t{text_of(image)}"),
        "a column of numbers stands before",
    ),
    "more columns": (
        lines_by(lambda row, caption, image: f"S{row}\tred\t{caption}\t{text_of(image)}"),
        "more columns",
    ),
    "latin-1": (SOUND.replace("red", "été"), "Windows-1252"),
    "gb18030": (SOUND.replace("red dress", "红色连衣裙"), "GB18030"),
    "names": (lines_by(lambda row, caption, image: f"{caption}\timg/{row}.jpg"), "names image"),
    "commas": (lines_by(lambda row, caption, image: f"{caption},{text_of(image)}"), "commas"),
    "quotation marks": (
        lines_by(lambda row, caption, image: f'"{caption}"\t"{text_of(image)}"'),
        "quotation marks",
    ),
    "spelled tab": (
        lines_by(lambda row, caption, image: f"{caption}\\t{text_of(image)}"),
        "backslash and t",
    ),
    **{
        name: (lines_by(lambda row, caption, image, it=it: f"{caption}\t{text_of(it)}"), words)  # type: ignore[misc]
        for name, it, words in (
            ("pages", PAGE, "web pages"),
            ("errors", ERROR, "JSON"),
            ("tiff", TIFF, "TIFF"),
            ("svg", SVG, "SVG"),
        )
    },
}


@pytest.mark.faults(kind="F4", trials=1)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_a_whole_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    text, words = MISTAKES[name]
    encoding = {"latin-1": "cp1252", "gb18030": "gb18030"}.get(name, "utf-8")
    tsv = tmp_path / "train.tsv"
    tsv.write_text(text, encoding=encoding)
    summary = write_profile(tsv, profile_files(tmp_path, "train"), DataConfig(), processes=1)
    mistake = likely_mistake(tsv, summary.faults)
    assert summary.quarantined and mistake is not None and words in mistake
    assert ";" in mistake or ":" in mistake, "what to do is told, too"


def test_faults_of_many_kinds_have_no_one_cause(tmp_path: Path) -> None:
    tsv = tmp_path / "train.tsv"
    tsv.write_bytes(b"".join(golden.raw + b"\n" for golden in golden_lines()))
    faults = Counter(str(golden.fault) for golden in golden_lines() if golden.fault)
    assert likely_mistake(tsv, faults) is None
    tsv.write_text(SOUND)
    assert likely_mistake(tsv, {}) is None


@pytest.mark.parametrize("name", ["swapped", "index"])
def test_import_easynlp_puts_right_what_it_is_advised_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.tsv").write_text(MISTAKES[name][0])
    (split,) = import_pairs("easynlp", [tmp_path / "train.tsv"], tmp_path / "out")
    assert split.tsv is not None and split.tsv.read_text() == SOUND
