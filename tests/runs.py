"""What a run is made of, for tests that hash nothing."""

from tasks.runtime.records import Lineage


def lineage(fingerprint: str = "f") -> Lineage:
    """Return the lineage of a run that starts from nothing known."""
    return Lineage(fingerprint=fingerprint, start=("", "", ""))
