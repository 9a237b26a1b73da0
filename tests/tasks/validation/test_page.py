"""The page of a data version shows the lines and images that a person has to look at."""

from pathlib import Path

import pytest

from model.errors import DataError
from tasks.runtime.environment import data_page
from tests.tasks.validation.test_validate import validated

HOSTILE = b"<script>alert(1)</script>"


def lines_of(tsv: Path) -> list[bytes]:
    return tsv.read_bytes().splitlines(keepends=True)


def page_of(letter: str = "a") -> str:
    return data_page(letter * 32).read_text(encoding="utf-8")


def test_faults_stand_by_reason_with_their_first_lines(pairs: Path) -> None:
    train = pairs / "finetune" / "train.tsv"
    lines = lines_of(train)
    caption = lines[2].split(b"\t")[0]
    train.write_bytes(b"".join([HOSTILE + b"\n", caption + b"\tAAAA!\n", *lines[2:]]))
    validated(pairs, max_fault_share=0.5)
    page = page_of()
    assert "train: no_tab" in page and "train: bad_base64" in page and "train line 1" in page
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page


def test_what_leaks_from_test_stands_beside_it_and_the_refusal_names_the_page(pairs: Path) -> None:
    train, test = (pairs / "finetune" / f"{name}.tsv" for name in ("train", "test"))
    lines, leaked = lines_of(train), lines_of(test)[0]
    train.write_bytes(b"".join([leaked, *lines[1:]]))
    with pytest.raises(DataError, match=r"data\.html"):
        validated(pairs)
    page = page_of()
    assert "refused" in page and "as in test" in page
    assert page.count("train line 1<") + page.count("train line 1 ") >= 1 and "test line 1" in page
    assert "data:image/jpeg;base64," in page


def test_a_version_without_faults_says_so(pairs: Path) -> None:
    validated(pairs)
    page = page_of()
    assert "accepted" in page and "None: every line is a pair." in page
