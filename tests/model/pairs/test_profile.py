"""A profile has a row for every line, faulty ones are put aside to the byte, by any processes."""

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

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.images import Preview, preview_image
from model.pairs.near_duplicates import image_signature
from model.pairs.profile import (
    PROFILE_SCHEMA,
    ProfileFiles,
    ProfileSummary,
    existing_profile,
    profile_files,
    read_profile,
    write_profile,
)
from model.pairs.splits import read_side_table
from model.pairs.tsv import LineColumns, count_lines, detect_columns, read_lines
from model.pairs.words import words_of
from tests.gears import rounds
from tests.golden import Golden, encoded, golden_lines, jpeg, picture
from tests.model.pairs.test_tsv import BOM, pair_line, write_tsv

GOLDEN = golden_lines()
LIMITS = DataConfig()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles")


def files_of(tsv: Path) -> ProfileFiles:
    return profile_files(tsv.parent / "report", tsv.stem)


def profile(
    tsv: Path, columns: LineColumns = "pair", limits: DataConfig = LIMITS
) -> tuple[ProfileSummary, Path, Path]:
    files = files_of(tsv)
    return write_profile(tsv, files, limits, columns), files.table, files.quarantine


def first_64_bits(data: bytes) -> int:
    return int(hashlib.sha256(data).hexdigest()[:16], 16)


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


@settings(max_examples=rounds(10, 25))
@given(st.lists(st.binary(max_size=60) | st.sampled_from(GOLDEN).map(lambda golden: golden.raw)))
def test_accepted_and_quarantined_are_the_lines_to_the_byte(
    scratch: Path, parts: list[bytes]
) -> None:
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
    rng, lines, count = random.Random(0), [], rounds(150, 500)
    for _ in range(count):
        image = bytearray(jpeg())
        for _ in range(rng.randint(1, 5)):
            image[rng.randrange(len(image))] ^= 1 << rng.randrange(8)
        line = bytearray(pair_line("red dress", bytes(image)))
        if rng.random() < 0.3:
            line[rng.randrange(len(line))] = rng.choice(b"\t\x00\xff-!\r")
        lines.append(bytes(line[: rng.randrange(len(line))] if rng.random() < 0.2 else line))
    summary, _, quarantine = profile(write_tsv(tmp_path, b"\n".join(lines) + b"\n"))
    assert summary.lines == count and count / 5 < summary.quarantined < count
    assert quarantine.read_bytes().count(b"\n") == summary.quarantined


def test_a_bom_is_cut_and_the_first_offset_lies_behind_it(tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path, BOM + pair_line("red") + b"\n" + pair_line("blue"))
    assert next(read_lines(tsv, 10_000)).offset == 3
    summary, table, _ = profile(tsv)
    assert summary.accepted == 2
    assert [row["notes"] for row in read_profile(table).to_pylist()] == ["bom", "no_final_newline"]


def test_a_line_without_end_is_streamed_past_in_flat_memory(tmp_path: Path) -> None:
    tsv = tmp_path / "test.tsv"
    length = 24_000_000
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


def test_a_profile_row_describes_its_line(tmp_path: Path) -> None:
    image = encoded(picture(40, 32), "PNG")
    line = pair_line("robe d'e\u0301te\u0301", image)
    preview = preview_image(image)
    assert isinstance(preview, Preview)
    signature = image_signature(preview.pixels)
    summary, table, _ = profile(write_tsv(tmp_path, line + b"\n"))
    assert summary == ProfileSummary(1, 1, 0, {}, {})
    assert read_profile(table).to_pylist() == [
        {
            "line": 1,
            "offset": 0,
            "length": len(line),
            "caption_chars": 12,
            "caption_words": 3,
            "caption_script": "latin",
            "caption_hash": first_64_bits("robe d'été".encode()),
            "caption_key": first_64_bits("robe d été".encode()),
            "image_format": "PNG",
            "width": 32,
            "height": 40,
            "mode": "RGB",
            "image_bytes": len(image),
            "image_hash": first_64_bits(image),
            "image_phash": signature.phash,
            "image_thumb": signature.thumb,
            "fault": None,
            "notes": "",
        }
    ]


def test_profiling_again_gives_the_same_bytes_and_removes_a_stale_quarantine(
    tmp_path: Path,
) -> None:
    tsv = write_tsv(tmp_path, b"\n".join(golden.raw for golden in GOLDEN))
    profile(tsv)
    first = [path.read_bytes() for path in files_of(tsv)]
    profile(tsv)
    assert first == [path.read_bytes() for path in files_of(tsv)]
    write_tsv(tmp_path, pair_line())
    assert not profile(tsv)[2].exists()


def test_any_number_of_processes_leaves_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.pairs.profile.PIECE_BYTES", 10_000)
    monkeypatch.setattr("model.pairs.profile.ROWS_A_GROUP", 40)
    lines = GOLDEN * rounds(1, 3)
    tsv = write_tsv(tmp_path, BOM + b"\n".join(golden.raw for golden in lines))
    left, summaries = [], []
    for processes in range(1, rounds(2, 3) + 1):
        files = profile_files(tmp_path / str(processes), "test")
        summaries.append(write_profile(tsv, files, LIMITS, processes=processes))
        left.append([path.read_bytes() for path in files])
    assert all(files == left[0] for files in left)
    assert all(summary == summaries[0] for summary in summaries)
    assert summaries[0].lines == count_lines(tsv) == len(lines)


def test_a_profile_is_taken_up_again_only_for_the_same_limits_and_whole_files(
    tmp_path: Path,
) -> None:
    tsv = write_tsv(tmp_path, pair_line() + b"\nno tab\n")
    files = files_of(tsv)
    assert existing_profile(tsv, files, LIMITS) is None
    summary, _, _ = profile(tsv)
    assert existing_profile(tsv, files, LIMITS) == summary
    assert existing_profile(tsv, files, LIMITS, "text") is None
    assert existing_profile(tsv, files, DataConfig(min_image_side=30)) is None
    for damaged in (files.table, files.words):
        kept = damaged.read_bytes()
        damaged.write_bytes(kept[:100] + bytes([kept[100] ^ 1]) + kept[101:])
        assert existing_profile(tsv, files, LIMITS) is None
        damaged.write_bytes(kept)
    files.quarantine.unlink()
    assert existing_profile(tsv, files, LIMITS) is None


def test_the_words_of_accepted_captions_are_counted(tmp_path: Path) -> None:
    tsv = write_tsv(
        tmp_path, b"\n".join([pair_line("Red dress, RED bow"), pair_line("红色 dress"), b"red\t!"])
    )
    profile(tsv)
    counted = pq.read_table(files_of(tsv).words).to_pylist()
    assert {row["word"]: row["count"] for row in counted} == {
        "red": 2,
        "dress": 2,
        "bow": 1,
        "红色": 1,
    }
    assert words_of("T-shirt ﬁne_print №5") == ["t", "shirt", "fine", "print", "no5"]


def test_rare_words_are_forgotten_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.pairs.profile.MAX_COUNTED_WORDS", 100)
    tsv = write_tsv(tmp_path, b"".join(b"dress number%d\n" % n for n in range(500)))
    profile(tsv, "text")
    assert pq.read_table(files_of(tsv).words).to_pylist() == [{"word": "dress", "count": 500}]


@pytest.mark.parametrize(
    ("caption", "script"),
    [
        ("red dress", "latin"),
        ("42 %", "none"),
        ("robe d'été", "latin"),
        ("红色连衣裙 XL", "cjk"),
        ("платье", "cyrillic"),
    ],
)
def test_the_script_of_most_letters_is_found(caption: str, script: str, tmp_path: Path) -> None:
    _, table, _ = profile(write_tsv(tmp_path, pair_line(caption)))
    assert read_profile(table)["caption_script"].to_pylist() == [script]


def test_a_profile_is_written_in_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.pairs.profile.ROWS_A_GROUP", 10)
    monkeypatch.setattr("model.pairs.profile.PIECE_BYTES", 95)
    tsv = write_tsv(tmp_path, b"red dress\n" * 25)
    _, table, _ = profile(tsv, "text")
    assert pq.ParquetFile(table).metadata.num_row_groups == 3
    assert read_profile(table)["line"].to_pylist() == list(range(1, 26))


def test_progress_adds_up_to_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.pairs.profile.PIECE_BYTES", 2000)
    tsv, seen = write_tsv(tmp_path, b"red dress\n" * 700), []
    write_profile(tsv, files_of(tsv), LIMITS, "text", seen.append)
    assert sum(seen) == count_lines(tsv) == 700 and len(seen) == 4


def test_a_file_that_grows_while_it_is_read_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path, b"red dress\n")

    def grow(rows: int) -> None:
        tsv.write_bytes(b"red dress\n" * 2)

    with pytest.raises(DataError, match="changed while it was read"):
        write_profile(tsv, files_of(tsv), LIMITS, "text", grow)
    assert not list((tmp_path / "report").iterdir())


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
@pytest.mark.skipif(
    "REAL_PAIRS" not in os.environ, reason="REAL_PAIRS names no folder of real pairs"
)
def test_real_pairs_are_all_accepted(tmp_path: Path) -> None:
    tsv = Path(os.environ["REAL_PAIRS"]) / "fashion-products" / "test.tsv"
    assert detect_columns(tsv) == "pair"
    summary = write_profile(tsv, profile_files(tmp_path, "test"), LIMITS)
    assert summary.accepted == summary.lines == count_lines(tsv) > 0
    side_table = read_side_table(tsv, required=True, lines=summary.lines)
    assert side_table is not None and "subcategory" in side_table.column_names
