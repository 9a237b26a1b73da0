"""Foreign text as people see it: nothing in it acts on a terminal, on a page or on other text."""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping

from tasks.runtime.records import Retention, SplitCounts

# How tables and pages name the directions of retrieval.
ARROWS = {"text_to_image": "text → image", "image_to_text": "image → text"}
# The columns of tables that hold words; all others hold numbers, aligned at the right.
WORD_COLUMNS = frozenset(
    {
        "column",
        "data set",
        "direction",
        "faults",
        "measure",
        "model",
        "name",
        "note",
        "passed",
        "protocol",
        "queries",
        "repeats",
        "score",
        "shared with test",
        "slice",
    }
)
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""Spell out control, bidi and other invisible characters: \x1b, \u202e.

    Joiners (U+200C, U+200D) stay: several scripts and emoji need them.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in HIDDEN_CATEGORIES and character not in JOINERS
        else character
        for character in text
    )


def without_credentials(text: str) -> str:
    """Cut user and password out of every address in a text."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def escaped(text: str) -> str:
    """Escape a text for HTML, hidden characters spelled out."""
    return html.escape(visible(text))


def counted(counts: Mapping[str, int]) -> str:
    """Join names with their counts, by name; ``none`` where there are none."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def count_rows(counts: Iterable[SplitCounts], head: str) -> list[dict[str, str]]:
    """List what validation found, a row a split; ``head`` stands above the names."""
    return [
        {
            head: split.name,
            "lines": f"{split.lines:,}",
            "accepted": f"{split.accepted:,}",
            "faults": counted(split.faults),
            "repeats": counted(split.repeats),
            "shared with test": counted(split.leaks),
        }
        for split in counts
    ]


def format_retention(retention: Retention) -> str:
    """Put in a line what fine-tuning left of the mean recall on held-out pretraining pairs."""
    before, after = 100 * retention.before, 100 * retention.after
    return (
        f"mean recall on {retention.pairs:,} held-out pretraining pairs {before:.1f} % before, "
        f"{after:.1f} % after fine-tuning"
    )
