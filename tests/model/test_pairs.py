"""Every line gets one verdict, every byte has one place, and nothing a shop's feed holds makes the reader raise."""

import base64
import hashlib
import os
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import DataConfig
from model.errors import DataError, FaultReason
from model.pairs import (
    PROFILE_SCHEMA,
    Columns,
    Pair,
    ProfileSummary,
    check_file,
    count_lines,
    decode_base64,
    detect_columns,
    line_notes,
    parse_line,
    read_lines,
    read_profile,
    write_profile,
)
from model.splits import read_side_table
from tests.golden import Golden, encoded, golden_lines, jpeg, picture

BOM = b"\xef\xbb\xbf"
GOLDEN = golden_lines()
LIMITS = DataConfig()
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


def profile(tsv: Path, columns: Columns = "pair", limits: DataConfig = LIMITS) -> tuple[ProfileSummary, Path, Path]:
    table, quarantine = tsv.with_suffix(".parquet"), tsv.with_suffix(".quarantine")
    return write_profile(tsv, table, quarantine, limits, columns), table, quarantine


# --- lines ---


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_a_golden_line_gets_its_one_verdict(golden: Golden, tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path, golden.raw + b"\n")
    summary, table, quarantine = profile(tsv)
    row = read_profile(table).to_pylist()[0]
    assert row["fault"] == golden.fault
    assert summary.lines == 1 and summary.quarantined == (golden.fault is not None)
    if golden.fault is None:
        assert set(row["notes"].split()) == golden.notes == set(summary.notes)
        assert not quarantine.exists()
    else:
        assert quarantine.read_bytes() == b"1\t%s\t%s\n" % (golden.fault.encode(), golden.raw)


def test_golden_lines_cover_every_reason_but_the_length() -> None:
    assert {golden.fault for golden in GOLDEN} == {None, *FaultReason} - {FaultReason.LINE_TOO_LONG}


@pytest.mark.parametrize(
    "caption", ["NA", "null", '"', "123", "a\u2028b", "a\u0085b", "a\x0bb", " red ", "=cmd()", "\ufeffx"]
)
def test_a_caption_is_kept_to_the_character(caption: str) -> None:
    assert parse_line(pair_line(caption, b"x")) == Pair(caption, b"x")


@given(CAPTIONS, st.binary())
def test_valid_captions_and_images_round_trip(caption: str, image: bytes) -> None:
    assert parse_line(pair_line(caption, image)) == Pair(caption, image)
    assert parse_line(pair_line(caption, image) + b"\r") == Pair(caption, image)
    assert parse_line(caption.encode(), "text") == Pair(caption, None)
    assert parse_line(base64.b64encode(image), "image") == Pair(None, image)


@given(st.binary(), st.sampled_from(["pair", "text", "image"]))
def test_any_bytes_are_a_pair_or_a_fault(raw: bytes, columns: Columns) -> None:
    verdict = parse_line(raw, columns)
    assert isinstance(verdict, FaultReason | Pair)
    if isinstance(verdict, Pair):
        assert (verdict.caption is None, verdict.image is None) == (columns == "image", columns == "text")
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


@given(st.binary())
def test_url_safe_base64_gives_the_same_bytes(image: bytes) -> None:
    assert decode_base64(base64.urlsafe_b64encode(image)) == image == decode_base64(base64.b64encode(image))


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


@settings(max_examples=60)
@given(st.binary(max_size=300).map(lambda data: data.replace(b"x", b"\n")), st.booleans())
def test_offsets_and_newlines_rebuild_the_file_to_the_byte(scratch: Path, data: bytes, with_bom: bool) -> None:
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


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=60) | st.sampled_from(GOLDEN).map(lambda golden: golden.raw)))
def test_accepted_and_quarantined_are_the_lines_to_the_byte(scratch: Path, parts: list[bytes]) -> None:
    data = b"\n".join([b"first", *parts])
    tsv = write_tsv(scratch, data)
    summary, table, quarantine = profile(tsv)
    rows = read_profile(table).to_pylist()
    assert summary.accepted + summary.quarantined == summary.lines == len(rows) == count_lines(tsv)
    slices = [data[row["offset"] : row["offset"] + row["length"]] for row in rows]
    bad = [(row, part) for row, part in zip(rows, slices, strict=True) if row["fault"]]
    assert quarantine.read_bytes() == b"".join(
        b"%d\t%s\t%s\n" % (row["line"], row["fault"].encode(), part) for row, part in bad
    )
    assert summary.faults == Counter(row["fault"] for row, _ in bad)


def test_no_mutated_jpeg_line_raises_or_goes_missing(tmp_path: Path) -> None:
    rng, lines = random.Random(0), []
    for _ in range(500):
        image = bytearray(jpeg())
        for _ in range(rng.randint(1, 5)):
            image[rng.randrange(len(image))] ^= 1 << rng.randrange(8)
        line = bytearray(pair_line("red dress", bytes(image)))
        if rng.random() < 0.3:
            line[rng.randrange(len(line))] = rng.choice(b"\t\x00\xff-!\r")
        lines.append(bytes(line[: rng.randrange(len(line))] if rng.random() < 0.2 else line))
    summary, _, quarantine = profile(write_tsv(tmp_path, b"\n".join(lines) + b"\n"))
    assert summary.lines == 500 and 100 < summary.quarantined < 500
    assert quarantine.read_bytes().count(b"\n") == summary.quarantined


def test_a_bom_is_cut_and_the_first_offset_lies_behind_it(tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path, BOM + pair_line("red") + b"\n" + pair_line("blue"))
    assert next(read_lines(tsv, 10_000)).offset == 3
    summary, table, _ = profile(tsv)
    assert summary.accepted == 2
    assert [row["notes"] for row in read_profile(table).to_pylist()] == ["bom", "no_final_newline"]


def test_a_line_without_end_is_streamed_past_in_flat_memory(tmp_path: Path) -> None:
    tsv = tmp_path / "test.tsv"
    length = 64_000_000
    with tsv.open("wb") as file:
        file.write(b"ok\n")
        file.seek(length, os.SEEK_CUR)
        file.write(b"\nlast\n")
    tracemalloc.start()
    lines = list(read_lines(tsv, max_line_bytes=1_000_000))
    summary, table, quarantine = profile(tsv, "text", DataConfig(max_line_bytes=1_000_000))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 12_000_000
    assert [(line.offset, line.length, line.data) for line in lines] == [
        (0, 2, b"ok"),
        (3, length, None),
        (4 + length, 4, b"last"),
    ]
    assert summary.faults == {"line_too_long": 1}
    assert quarantine.stat().st_size == len(b"2\tline_too_long\t") + length + 1
    assert read_profile(table)["length"].to_pylist() == [2, length, 4]


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
def test_a_file_that_cannot_be_a_tsv_is_refused_in_a_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    tsv = write_tsv(tmp_path, data)
    for refuse in (check_file, profile, detect_columns):
        with pytest.raises(DataError, match=sentence):
            refuse(tsv)


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tsv")
    for name, sentence in (("none.tsv", "no such file"), (".", "is a folder"), ("pipe.tsv", "not a regular file")):
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
def test_columns_are_detected_from_the_first_lines(tmp_path: Path, lines: list[bytes], columns: Columns) -> None:
    assert detect_columns(write_tsv(tmp_path, BOM + b"\r\n".join(lines))) == columns


# --- profile ---


def test_a_profile_row_says_what_is_in_the_line(tmp_path: Path) -> None:
    image = encoded(picture(40, 32), "PNG")
    line = pair_line("robe d'e\u0301te\u0301", image)
    summary, table, _ = profile(write_tsv(tmp_path, line + b"\n"))
    assert summary == ProfileSummary(1, 1, 0, {}, {})
    assert read_profile(table).to_pylist() == [
        {
            "line": 1,
            "offset": 0,
            "length": len(line),
            "caption_chars": 12,
            "caption_words": 2,
            "caption_hash": hashlib.sha256("robe d'été".encode()).hexdigest()[:16],
            "image_format": "PNG",
            "width": 32,
            "height": 40,
            "mode": "RGB",
            "image_bytes": len(image),
            "image_hash": hashlib.sha256(image).hexdigest()[:32],
            "fault": None,
            "notes": "",
        }
    ]


def test_profiling_again_gives_the_same_bytes_and_removes_a_stale_quarantine(tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path, b"\n".join(golden.raw for golden in GOLDEN))
    first = [path.read_bytes() for path in profile(tsv)[1:]]
    assert first == [path.read_bytes() for path in profile(tsv)[1:]]
    write_tsv(tmp_path, pair_line())
    assert not profile(tsv)[2].exists()


def test_a_profile_is_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.pairs.ROWS_A_GROUP", 10)
    tsv = write_tsv(tmp_path, b"red dress\n" * 25)
    _, table, _ = profile(tsv, "text")
    assert pq.ParquetFile(table).metadata.num_row_groups == 3
    assert read_profile(table)["line"].to_pylist() == list(range(1, 26))


def test_progress_adds_up_to_the_lines(tmp_path: Path) -> None:
    tsv, seen = write_tsv(tmp_path, b"red dress\n" * 700), []
    write_profile(tsv, tmp_path / "p", tmp_path / "q", LIMITS, "text", seen.append)
    assert sum(seen) == count_lines(tsv) == 700 and len(seen) == 3


def test_a_file_that_grows_while_it_is_read_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path, b"red dress\n")

    def grow(rows: int) -> None:
        tsv.write_bytes(b"red dress\n" * 2)

    with pytest.raises(DataError, match="changed while it was read"):
        write_profile(tsv, tmp_path / "p", tmp_path / "q", LIMITS, "text", grow)
    assert [path.name for path in tmp_path.iterdir()] == ["test.tsv"]


def test_a_missing_damaged_or_foreign_profile_is_refused_in_a_sentence(tmp_path: Path) -> None:
    table = tmp_path / "test.parquet"
    with pytest.raises(DataError, match="no such profile"):
        read_profile(table)
    table.write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match="damaged profile"):
        read_profile(table)
    pq.write_table(PROFILE_SCHEMA.empty_table().drop_columns(["fault"]), table)
    with pytest.raises(DataError, match="no profile of this version"):
        read_profile(table)


@pytest.mark.real
@pytest.mark.skipif("REAL_PAIRS" not in os.environ, reason="REAL_PAIRS names no folder of real pairs")
def test_real_pairs_are_all_accepted(tmp_path: Path) -> None:
    tsv = Path(os.environ["REAL_PAIRS"]) / "fashion-products" / "test.tsv"
    assert detect_columns(tsv) == "pair"
    summary = write_profile(tsv, tmp_path / "p", tmp_path / "q", LIMITS)
    assert summary.accepted == summary.lines == count_lines(tsv) > 0
    side_table = read_side_table(tsv, required=True, lines=summary.lines)
    assert side_table is not None and "subcategory" in side_table.column_names
