"""Tables and lines for a terminal; what people and files gave us is shown, never obeyed."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.shown import visible


def print_table(title: str, rows: list[dict[str, str]], right: tuple[str, ...] = ()) -> None:
    """Print rows as a table with their keys as its head; columns named in ``right`` are aligned there."""
    table = Table(title=escape(visible(title)), title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(visible(value)) for value in row.values()))
    Console().print(table)


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
