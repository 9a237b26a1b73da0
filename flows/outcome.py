"""The outcome of a retraining as the command prints it and Prefect keeps it."""

from collections.abc import Sequence

from pydantic import Field

from tasks.runtime.records import Record


class Report(Record):
    """The outcome of a retraining: what was registered, how good it is, what was decided."""

    is_new: bool
    headline: str
    ranks: list[dict[str, str]]
    facts: dict[str, str]
    checks: list[dict[str, str]] = Field(default_factory=list)


def nothing_new(
    config: str, data_version: str, name: str, number: int, aliases: Sequence[str]
) -> Report:
    """Return the report of a run whose fingerprint a registered version has already."""
    return Report(
        is_new=False,
        headline=f"nothing new: {name} version {number} was made from this data, code and config",
        ranks=[],
        facts={
            "aliases": ", ".join(aliases) or "none",
            "data version": data_version,
            "config": config,
        },
    )
