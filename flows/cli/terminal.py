"""Tables and lines for a terminal; what people and files gave us is shown, never obeyed."""

import os
import sys

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from tasks.pages.text import visible

PIPED_COLUMNS = 160  # where no terminal says how wide it is


def print_table(title: str, rows: list[dict[str, str]], right: tuple[str, ...] = ()) -> None:
    """Print rows as a table with their keys as its head; columns named in ``right`` are aligned
    there.

    The first column is what a person copies, so it is never broken.
    """
    table = Table(title=escape(visible(title)), title_justify="left")
    for number, column in enumerate(rows[0]):
        justify: JustifyMethod = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(escape(visible(value)) for value in row.values()))
    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    Console(width=PIPED_COLUMNS if is_piped else None).print(table)


def print_facts(headline: str, facts: dict[str, str]) -> None:
    """Print a headline and a line a fact."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(visible(headline))}[/bold]", soft_wrap=True)
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        console.print(f"[dim]{name:>{width}}[/dim]  {escape(visible(value))}", soft_wrap=True)


def print_line(text: str) -> None:
    """Print a line."""
    Console(highlight=False).print(escape(visible(text)), soft_wrap=True)
