"""Every line of a CSV is a row, a part of one, or a reason to stop; counted without the reader."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from model.errors import DataError
from model.importers.delimited import column_names, find_form, read_rows
from model.importers.importing import import_pairs
from model.importers.records import LeftOut
from tests.gears import rounds
from tests.golden import jpeg

IMAGE = jpeg()
FUZZED_ROWS = rounds(6_000, 20_000)
ROWS_A_FILE = 100


def write(folder: Path, text: str, encoding: str = "utf-8", name: str = "train.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def rows_of(path: Path, **options: str | None) -> list[list[str] | LeftOut]:
    form = find_form(path, options.get("encoding"), options.get("quotes"))  # type: ignore[arg-type]
    return list(read_rows(form))


# --- one kind at a time ---


SWALLOWED = [
    ("unclosed", 'image,title\n1.jpg,"Retro\n2.jpg,hat\n3.jpg,bag\n', 2),
    ("closed by an inch mark", 'image,title\n1.jpg,hat\n2.jpg,"Retro\n3.jpg,a\n4.jpg,7.5"\n', 3),
    ("two rows become one", 'id,title,image\n1,"hat,1.jpg\n2,bag",2.jpg\n', 2),
    ("the last column", 'title,image\nhat,"1.jpg\nbag,2.jpg\ncap",3.jpg\n', 2),
    ("text behind the closing mark", 'title,image\n"hat,1.jpg\nbag 7" long,2.jpg\n', 2),
    ("the header", 'title,"image\nhat,1.jpg\nbag,2.jpg\n', 1),
    ("a long text", 'title,image\n"' + "soft\n" * 400 + '",1.jpg\n', 2),
]


@pytest.mark.faults(kind="F1", trials=1)
@pytest.mark.parametrize(("text", "line"), [one[1:] for one in SWALLOWED], ids=lambda _: "")
def test_a_quotation_mark_that_takes_in_rows_stops_with_its_line_and_an_option(
    tmp_path: Path, text: str, line: int
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=rf"train\.csv line {line}: a quotation mark .*=literal"):
        rows_of(path)
    lines = text.count("\n")
    assert len(rows_of(path, quotes="literal")) == lines - 1, "each line is a row then"


def test_a_text_of_many_lines_comes_in_where_its_quotation_marks_are_trusted(
    tmp_path: Path,
) -> None:
    text = "soft\n" * 400
    path = write(tmp_path, f'title,image\n"{text}",1.jpg\n')
    assert rows_of(path, quotes="trusted") == [[text, "1.jpg"]]


RIGHT = {
    "inch marks": ('7.5" bracelet,1.jpg', '7.5" bracelet'),
    "doubled": ('"The ""best"" hat",1.jpg', 'The "best" hat'),
    "quoted delimiter": ('"hat, red",1.jpg', "hat, red"),
    "line break": ('"hat\nred",1.jpg', "hat\nred"),
    "CR in quotes": ('"hat\rred",1.jpg', "hat\rred"),
    "empty quotes": ('"",1.jpg', ""),
    "a quote at the end": ('hat 12",1.jpg', 'hat 12"'),
}


@pytest.mark.faults(kind="F1", trials=len(RIGHT))
def test_quotation_marks_that_are_right_stay_as_they_were_meant(tmp_path: Path) -> None:
    text = "title,image\n" + "\n".join(row for row, _ in RIGHT.values())
    assert rows_of(write(tmp_path, text)) == [[title, "1.jpg"] for _, title in RIGHT.values()]


LEFT_OUT = {
    "a mark inside a quoted text": ('"7.5" hat",1.jpg', "a stray quotation mark"),
    "CR in a row": ("hat\rred,1.jpg", "a stray quotation mark or CR"),
    "NUL": ("hat\0red,1.jpg", "holds NUL"),
    "too many fields": ("hat, red,1.jpg", "3 fields for 2 columns"),
    "too few fields": ("hat", "1 fields for 2 columns"),
}


@pytest.mark.faults(kind="F1", trials=1)
@pytest.mark.parametrize(("row", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_no_row_is_one_row_left_out_with_its_reason(
    tmp_path: Path, row: str, reason: str
) -> None:
    path = write(tmp_path, f"title,image\nhat,1.jpg\n{row}\nbag,2.jpg\n")
    first, refused, last = rows_of(path)
    assert (first, last) == (["hat", "1.jpg"], ["bag", "2.jpg"])
    assert isinstance(refused, LeftOut) and refused.name.startswith("train.csv row 2")
    assert reason in refused.name or refused.reason == reason


@pytest.mark.faults(kind="F1", trials=1)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "option"),
    [
        ("utf-8", None), ("utf-8-sig", None), ("utf-16", None),
        ("cp1252", "cp1252"), ("gb18030", "gb18030"), ("utf-16-le", "utf-16-le"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_line_ends_encodings_and_delimiters_change_no_row(
    tmp_path: Path, end: str, encoding: str, option: str | None, delimiter: str
) -> None:
    title = "红色连衣裙" if encoding == "gb18030" else "Hüte für Ärzte"
    rows = [[f"{title} {number}", f"{number}.jpg"] for number in range(5)]
    text = end.join(delimiter.join(row) for row in [["title", "image"], *rows])
    assert rows_of(write(tmp_path, text, encoding), encoding=option) == rows


@pytest.mark.faults(kind="F1", trials=1)
@pytest.mark.parametrize("encoding", ["cp1252", "gb18030", "utf-16-le"])
def test_a_file_in_another_encoding_is_refused_with_the_option_that_names_it(
    tmp_path: Path, encoding: str
) -> None:
    title = "红色连衣裙" if encoding == "gb18030" else "Hüte für Ärzte"
    path = write(tmp_path, "title,image\n" + f"{title},1.jpg\n" * 9, encoding)
    with pytest.raises(DataError, match=r"is not UTF-8 but likely .*encoding=") as refusal:
        rows_of(path)
    named = re.search(r"encoding=([\w-]+)", str(refusal.value))
    assert named and rows_of(path, encoding=named[1]) == [[title, "1.jpg"]] * 9


def test_one_row_in_another_encoding_is_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b"title,image\ncaf\xe9,1.jpg\n" + b"hat,1.jpg\n" * 3)
    refused, *others = rows_of(path)
    assert isinstance(refused, LeftOut) and refused.reason == "bad_utf8"
    assert others == [["hat", "1.jpg"]] * 3


def test_cells_of_a_million_blanks_or_marks_cost_no_time(tmp_path: Path) -> None:
    blank, listed = " " * 1_000_000, " ," * 500_000
    rows = [f'"{blank}\n{blank}x";1.jpg', f"hat;{blank}", f"hat;{listed}", "hat;1.jpg\r\r"]
    path = write(tmp_path, "title;image\n" + "\n".join(rows) + "\n")
    assert len(rows_of(path, quotes="trusted")) == len(rows)
    (tmp_path / "1.jpg").write_bytes(IMAGE)
    (split,) = import_pairs("csv", [path], tmp_path / "out", {"quotes": "trusted"})
    assert split.rows == len(rows)
    path = write(tmp_path, "title;image\n" + "\n".join(rows[1:]) + "\n")
    assert len(rows_of(path)) == len(rows) - 1


def test_lines_that_end_in_two_ways_are_refused_where_a_row_would_hold_two(tmp_path: Path) -> None:
    path = write(tmp_path, "title,image\nhat,1.jpg\rbag,2.jpg\n")
    with pytest.raises(DataError, match="line 2: line ends of two kinds"):
        rows_of(path)


def test_a_file_without_a_header_is_refused_with_the_header_to_write(tmp_path: Path) -> None:
    path = write(tmp_path, "hat;1.jpg\nbag;2.jpg\n")
    with pytest.raises(DataError, match=r"first row is a pair \(hat;1\.jpg\), .*caption;image"):
        column_names(find_form(path, None, None))


def test_a_csv_whose_images_have_no_endings_is_watched_by_the_files_on_disk(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.JPG").write_bytes(IMAGE)
    path = write(tmp_path, 'title,image\nhat,0\n"Retro,1\nbag,2\ncap",3\n')
    with pytest.raises(DataError, match="line 3: a quotation mark opens here and takes in 3 lines"):
        import_pairs("csv", [path], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (split,) = import_pairs("csv", [path], tmp_path / "out", {"quotes": "literal"})
    assert (split.rows, split.pairs) == (4, 4)


# --- thousands at random ---


def quoted(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def unclosed(row: str, rng: Random) -> str:
    number, title, rest = row.split(",", 2)
    return f'{number},"{title},{rest}'


def inserted(mark: str) -> Callable[[str, Random], str]:
    def insert(row: str, rng: Random) -> str:
        at = rng.randrange(len(row) + 1)
        return row[:at] + mark + row[at:]

    return insert


def inch(row: str, rng: Random) -> str:
    number, title, rest = row.split(",", 2)
    return f'{number},{title} 7.5",{rest}'


def with_breaks(row: str, rng: Random) -> str:
    number, title, rest = row.split(",", 2)
    return f'{number},"{title}\nsoft, warm\n""cosy""",{rest}'


def ragged(row: str, rng: Random) -> str:
    return row + "," if rng.random() < 0.5 else row.split(",", 1)[1]


MUTATIONS = (
    unclosed, inch, with_breaks, ragged,
    inserted('"'), inserted('""'), inserted("\r"), inserted("\0"), inserted(","), inserted(";"),
)  # fmt: skip


@pytest.mark.faults(kind="F1", trials=FUZZED_ROWS)
def test_no_row_is_lost_among_thousands_that_were_damaged(tmp_path: Path) -> None:
    rng, refused = Random(2026), 0
    for _ in range(FUZZED_ROWS // ROWS_A_FILE):
        rate = rng.choice((0, 0.02, 0.1, 0.3))
        rows = []
        for number in range(ROWS_A_FILE):
            row = quoted([str(number), f"hat no {number}", f"img/{number}.jpg", "red"])
            rows.append(rng.choice(MUTATIONS)(row, rng) if rng.random() < rate else row)

        text = "\n".join(["id,title,image,colour", *rows])
        path = write(tmp_path, text)
        try:
            assert len(rows_of(path)) == ROWS_A_FILE, f"rows are lost or made up:\n{text}"
        except DataError as error:
            refused += 1
            line = re.search(r"line (\d+): (a quotation mark|line ends)", str(error))
            assert line, error
            named = text.split("\n")[int(line[1]) - 1]
            assert '"' in named or "\r" in named

        # Read literally, each line of the file is a row, and the file's lines can be counted.
        lines = sum(1 for line in text.split("\n")[1:] if line)
        assert len(rows_of(path, quotes="literal")) == lines
    assert 0 < refused < FUZZED_ROWS // ROWS_A_FILE
