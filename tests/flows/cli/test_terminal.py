"""Tables lose nothing, however narrow the terminal and wherever they are piped."""

import pytest

from flows.cli.report import print_report
from flows.cli.terminal import print_facts, print_table
from flows.outcome import Report

RANKS = [
    {"direction": direction, "measure": measure, "chance": "0.1", "new model": "12.3"}
    for direction in ("text → image", "image → text")
    for measure in ("Rank@1", "Rank@5")
]


def column(output: str, number: int) -> str:
    """Return the text of a column, put together again where it was folded."""
    cells = [line.strip("│").split("│") for line in output.splitlines() if "│" in line]
    return "".join(row[number].strip() for row in cells)


@pytest.mark.parametrize("columns", [None, "40"])
def test_a_table_folds_what_is_too_wide_and_cuts_nothing(
    columns: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    name, text = "n" * 200, "t" * 400
    print_table("Any", [{"name": name, "text": text}])
    output = capsys.readouterr().out
    assert (column(output, 0), column(output, 1)) == (name, text)


def test_what_a_person_copies_stands_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_table("Any", [{"name": "a name of words", "text": "t " * 100}])
    assert "a name of words" in capsys.readouterr().out


def test_facts_are_never_wrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_facts("Any", {"path": "p" * 100})
    assert "p" * 100 in capsys.readouterr().out


def test_a_report_has_a_rule_between_directions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    facts = {"decision": "promoted, better"}
    print_report(Report(is_new=True, headline="muge version 1", ranks=RANKS, facts=facts))
    output = capsys.readouterr().out
    assert "muge version 1: Rank@K on test, %" in output
    assert "decision  promoted, better" in output
    lines = [line.strip() for line in output.splitlines()]
    assert sum(set(line) <= set("─┼") for line in lines) == 1
    empty = [line for line in lines if not any(map(str.isalnum, line))]
    assert len(empty) == 2  # below the head, between the directions


def test_a_report_of_nothing_new_is_a_headline_with_facts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_report(Report(is_new=False, headline="nothing new", ranks=[], facts={"config": "a"}))
    assert capsys.readouterr().out.splitlines()[:2] == ["nothing new", "config  a"]
