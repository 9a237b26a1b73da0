"""A pytest plugin: at the end of a run it prints one row a kind of fault, and what the whole must
hold.

A test says its kind and how often it injects it: ``@pytest.mark.faults(kind="K1", trials=5)``.
Without ``kind`` the name of its module counts, without ``trials`` one. A kind survived as many
trials as its passed tests have.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

MIN_KINDS = 60
MIN_TRIALS = 1000
MAX_SECONDS = 300
TABLE = pytest.StashKey["Table"]()
INJECTED = "fault injected"


@dataclass
class Count:
    """Trials of a kind of fault, and how many of them were survived."""

    trials: int = 0
    survived: int = 0


class Table:
    """Counts by kind of the tests that ran."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}
        self.seconds = 0.0

    def add(self, kind: str, trials: int, passed: bool) -> None:
        """Count a test."""
        count = self.counts.setdefault(kind, Count())
        count.trials += trials
        count.survived += trials * passed

    def lines(self) -> Iterator[str]:
        """Yield the table and the totals against what must hold."""
        width = max(map(len, self.counts))
        yield f"{'kind':<{width}}  {'trials':>7}  {'survived':>8}"
        for kind, count in sorted(self.counts.items()):
            yield f"{kind:<{width}}  {count.trials:>7,}  {count.survived:>8,}"
        trials = sum(count.trials for count in self.counts.values())
        survived = sum(count.survived for count in self.counts.values())
        yield _bar("faults.kinds", len(self.counts), ">=", MIN_KINDS)
        yield _bar("faults.trials", trials, ">=", MIN_TRIALS)
        yield _bar("faults.survived_percent", 100 * survived / trials, ">=", 100)
        yield _bar("faults.seconds", round(self.seconds), "<=", MAX_SECONDS)


def _bar(name: str, value: float, sign: str, target: int) -> str:
    held = value >= target if sign == ">=" else value <= target
    return f"BAR {name} {value:g} {sign} {target} {'ok' if held else 'short'}"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()
    config.pluginmanager.register(Counter(config.stash[TABLE]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note on a report, which may have to travel from a process that runs tests, what was
    injected."""
    report: pytest.TestReport = yield
    if item.get_closest_marker("faults"):
        marks = reversed(list(item.iter_markers("faults")))
        said = {name: value for mark in marks for name, value in mark.kwargs.items()}
        module = item.path.stem.removeprefix("test_").replace("_", " ")
        report.user_properties.append((INJECTED, [said.get("kind", module), said.get("trials", 1)]))
    return report


class Counter:
    """Counts the reports of every process that ran tests, in the one that prints."""

    def __init__(self, table: Table) -> None:
        self.table, self.start = table, time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.table.seconds = time.monotonic() - self.start
        if report.failed or (report.when == "call" and report.passed):
            for _, (kind, trials) in (
                told for told in report.user_properties if told[0] == INJECTED
            ):
                self.table.add(kind, trials, report.passed)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash[TABLE].counts:
        terminalreporter.section("faults")
        for line in config.stash[TABLE].lines():
            terminalreporter.write_line(line)
