"""Tables, facts and lines for a terminal; what people and files gave us is shown, never obeyed."""

import os
import sys
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from model.errors import STARTED_IN
from tasks.pages.text import visible
from tasks.runtime.log import STAGE_WIDTH

PIPED_COLUMNS = 160  # where no terminal says how wide it is


def print_table(
    title: str,
    rows: Sequence[Mapping[str, str]],
    right: Sequence[str] = (),
    group: str | None = None,
) -> None:
    """Print rows as a table with their keys as its head.

    Columns named in ``right`` are aligned there. A rule stands where the column ``group`` changes.
    The first column is what a person copies: it is folded only where it fills half a line.
    """
    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(width=PIPED_COLUMNS if is_piped else None)
    # In a pipe every line carries something: no frame around the rows.
    table = Table(title=escape(visible(title)), title_justify="left", show_edge=not is_piped)
    for number, column in enumerate(rows[0]):
        justify: JustifyMethod = "right" if column in right else "left"
        widest = max(cell_len(visible(row[column])) for row in rows)
        is_whole = number == 0 and 2 * widest <= console.width
        table.add_column(column, justify=justify, overflow="fold", no_wrap=is_whole)

    for row, after in zip(rows, [*rows[1:], None], strict=True):
        is_last = group is not None and after is not None and row[group] != after[group]
        table.add_row(*(escape(visible(value)) for value in row.values()), end_section=is_last)
    console.print(table)


def print_facts(headline: str, facts: Mapping[str, str]) -> None:
    """Print a headline and a line a fact, its name before it."""
    console = Console(highlight=False)
    if headline:
        console.print(f"[bold]{escape(visible(headline))}[/bold]", soft_wrap=True)
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        console.print(f"[dim]{name:>{width}}[/dim]  {escape(visible(value))}", soft_wrap=True)


def print_next(steps: Sequence[str]) -> None:
    """Print what a person may type next, in this order."""
    for number, step in enumerate(steps, 1):
        print_line(f"next{f' {number}' if len(steps) > 1 else ''}: {step}")


def print_line(text: str = "") -> None:
    """Print a line."""
    Console(highlight=False).print(escape(visible(text)), soft_wrap=True)


def print_progress(stage: str, sentence: str) -> None:
    """Print a line of a command's log before there is a run that logs."""
    sys.stderr.write(f"{stage:<{STAGE_WIDTH}} {visible(sentence)}\n")
    sys.stderr.flush()


def shorten_paths(text: str) -> str:
    """Return a text in which paths below the folder where the user stands begin there."""
    return text.replace(f"{STARTED_IN}/", "")
