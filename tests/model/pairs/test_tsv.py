"""Every line gets one verdict, every byte has one place, and nothing in a feed makes us raise."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError, FaultReason
from model.pairs.tsv import (
    LineColumns,
    Pair,
    check_file,
    chunk_bounds,
    count_lines,
    decode_base64,
    detect_columns,
    line_notes,
    parse_line,
    read_lines,
)
from tests.gears import rounds
from tests.golden import encoded, golden_lines, jpeg, picture

BOM = b"\xef\xbb\xbf"
GOLDEN = golden_lines()
CAPTIONS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


def write_tsv(folder: Path, data: bytes, name: str = "test.tsv") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def pair_line(caption: str = "red dress", image: bytes | None = None) -> bytes:
    return caption.encode() + b"\t" + base64.b64encode(jpeg() if image is None else image)


# --- lines ---


def test_golden_lines_cover_every_reason_but_the_length() -> None:
    assert {golden.fault for golden in GOLDEN} == {None, *FaultReason} - {FaultReason.LINE_TOO_LONG}


@pytest.mark.parametrize(
    "caption",
    ["NA", "null", '"', "123", "a\u2028b", "a\u0085b", "a\x0bb", " red ", "=cmd()", "\ufeffx"],
)
def test_a_caption_is_kept_to_the_character(caption: str) -> None:
    assert parse_line(pair_line(caption, b"x")) == Pair(caption, b"x")


@settings(max_examples=rounds(40, 100))
@given(CAPTIONS, st.binary())
def test_valid_captions_and_images_round_trip(caption: str, image: bytes) -> None:
    assert parse_line(pair_line(caption, image)) == Pair(caption, image)
    assert parse_line(pair_line(caption, image) + b"\r") == Pair(caption, image)
    assert parse_line(caption.encode(), "text") == Pair(caption, None)
    assert parse_line(base64.b64encode(image), "image") == Pair(None, image)


@settings(max_examples=rounds(40, 100))
@given(st.binary(), st.sampled_from(["pair", "text", "image"]))
def test_any_bytes_are_a_pair_or_a_fault(raw: bytes, columns: LineColumns) -> None:
    verdict = parse_line(raw, columns)
    assert isinstance(verdict, FaultReason | Pair)
    if isinstance(verdict, Pair):
        assert (verdict.caption is None, verdict.image is None) == (
            columns == "image",
            columns == "text",
        )
        assert all(isinstance(note, str) for note in line_notes(raw, verdict))


def test_a_tab_is_a_fault_in_a_file_of_one_column() -> None:
    assert parse_line(b"red\tdress", "text") is FaultReason.EXTRA_TAB
    assert parse_line(b"", "text") is FaultReason.EMPTY_CAPTION
    assert parse_line(b"", "image") == Pair(None, b"")


def test_the_first_fault_in_the_documented_order_is_the_reason() -> None:
    assert parse_line(b"\xff\x00\t!\t") is FaultReason.EXTRA_TAB
    assert parse_line(b"\xff\x00\t!") is FaultReason.BAD_UTF8
    assert parse_line(b" \x00\t!") is FaultReason.CONTROL_BYTE
    assert parse_line(b" \t!") is FaultReason.EMPTY_CAPTION


# --- base64 ---


@settings(max_examples=rounds(40, 100))
@given(st.binary())
def test_url_safe_base64_gives_the_same_bytes(image: bytes) -> None:
    assert (
        decode_base64(base64.urlsafe_b64encode(image))
        == image
        == decode_base64(base64.b64encode(image))
    )


@settings(max_examples=rounds(40, 100))
@given(st.binary())
def test_missing_padding_and_a_data_prefix_give_the_same_bytes(image: bytes) -> None:
    text = base64.b64encode(image)
    assert decode_base64(text.rstrip(b"=")) == image
    assert decode_base64(b"data:image/jpeg;base64," + text) == image
    assert decode_base64(b"DATA:image/svg+xml;charset=utf-8;base64," + text) == image


@pytest.mark.parametrize(
    "text",
    [
        b"+-+-",
        b"/_/_",
        b"A",
        b"AAAAA",
        b"AA A",
        b"AAA\n",
        b"AA==AA==",
        b"AAAA=",
        b"AAAA====",
        b"QQ===",
        b"=",
        b"====",
        "é".encode(),
    ],
)
def test_what_is_not_base64_is_refused(text: bytes) -> None:
    assert decode_base64(text) is None


# --- files ---


@settings(max_examples=rounds(25, 60))
@given(st.binary(max_size=300).map(lambda data: data.replace(b"x", b"\n")), st.booleans())
def test_offsets_and_newlines_rebuild_the_file_to_the_byte(
    scratch: Path, data: bytes, with_bom: bool
) -> None:
    data = BOM * with_bom + data
    tsv = write_tsv(scratch, data)
    lines = list(read_lines(tsv, max_line_bytes=40))
    slices = [data[line.offset : line.offset + line.length] for line in lines]
    assert all(line.data in (None, part) for line, part in zip(lines, slices, strict=True))
    assert all((line.data is None) == (line.length > 40) for line in lines)
    start = BOM if data.startswith(BOM) else b""
    ending = b"\n" if data.removeprefix(start).endswith(b"\n") else b""
    assert start + b"\n".join(slices) + ending == data
    assert [line.line for line in lines] == list(range(1, count_lines(tsv) + 1))


@settings(max_examples=rounds(25, 60))
@given(
    st.binary(max_size=300).map(lambda data: data.replace(b"x", b"\n")),
    st.booleans(),
    st.integers(1, 50),
)
def test_the_lines_of_all_pieces_are_the_lines_of_the_file(
    scratch: Path, data: bytes, with_bom: bool, chunk_bytes: int
) -> None:
    tsv = write_tsv(scratch, BOM * with_bom + data)
    bounds = list(chunk_bounds(tsv, chunk_bytes))
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds)][: len(bounds)]
    assert not bounds or bounds[-1][1] == tsv.stat().st_size
    pieces = [line[1:] for start, stop in bounds for line in read_lines(tsv, 40, start, stop)]
    assert pieces == [line[1:] for line in read_lines(tsv, 40)]


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path, b"a" * 10 + b"\n" + b"b" * 11 + b"\n" + b"c" * 10)
    assert [line.data for line in read_lines(tsv, 10)] == [b"a" * 10, None, b"c" * 10]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (BOM, "is empty"),
        (b"\x1f\x8b\x08\x00", "is gzip-compressed; gunzip it first"),
        ("red\n".encode("utf-16"), "is UTF-16; convert it"),
        (b"\xfe\xff" + "red\n".encode("utf-16-be"), "is UTF-16; convert it"),
    ],
)
def test_a_file_that_cannot_be_a_tsv_is_refused_in_a_sentence(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    tsv = write_tsv(tmp_path, data)
    for refuse in (check_file, detect_columns):
        with pytest.raises(DataError, match=sentence):
            refuse(tsv)


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tsv")
    for name, sentence in (
        ("none.tsv", "no such file"),
        (".", "is a folder"),
        ("pipe.tsv", "not a regular file"),
    ):
        with pytest.raises(DataError, match=sentence):
            check_file(tmp_path / name)


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        ([pair_line()], "pair"),
        ([b"no tab at all", pair_line(), pair_line()], "pair"),
        ([b"red dress", b"blue dress"], "text"),
        ([b"AAAA", b"dress"], "text"),
        ([base64.b64encode(jpeg())], "image"),
        ([base64.urlsafe_b64encode(encoded(picture(400, 400), "BMP"))], "image"),
        ([b"data:image/png;base64," + base64.b64encode(encoded(picture(), "PNG"))], "image"),
    ],
)
def test_columns_are_detected_from_the_first_lines(
    tmp_path: Path, lines: list[bytes], columns: LineColumns
) -> None:
    assert detect_columns(write_tsv(tmp_path, BOM + b"\r\n".join(lines))) == columns
