"""The table of faults counts what it was told, and says so when something was not survived."""

from tests.faults.table import Table


def test_a_kind_that_was_not_survived_shows_in_its_row_and_in_the_total() -> None:
    table = Table()
    table.add("K1", 5, passed=True)
    table.add("K1", 3, passed=False)
    table.add("D3", 200, passed=True)
    head, *rows, kinds, trials, survived, seconds = table.lines()
    assert [row.split() for row in rows] == [["D3", "200", "200"], ["K1", "8", "5"]]
    assert head.split() == ["kind", "trials", "survived"]
    assert (
        kinds == "BAR faults.kinds 2 >= 60 short"
        and trials == "BAR faults.trials 208 >= 1000 short"
    )
    assert survived == "BAR faults.survived_percent 98.5577 >= 100 short" and seconds.endswith("ok")
