"""Foreign text as people see it: nothing in it acts on a terminal, on a page or on the direction of other text."""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping

from tasks.runtime.records import Retention, SplitCounts

# How tables and pages name the directions of retrieval.
ARROWS = {"text_to_image": "text → image", "image_to_text": "image → text"}


def visible(text: str) -> str:
    r"""Return the text with control, bidi and other invisible characters spelled out: \x1b, \u202e.

    Joiners (U+200C, U+200D) stay: several scripts and emoji need them.
    """
    return "".join(
        character.encode("unicode_escape").decode() if _is_hidden(character) else character
        for character in text
    )


def without_credentials(text: str) -> str:
    """Return the text with user and password cut out of every address in it."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def escaped(text: str) -> str:
    """Return the text as HTML shows it, hidden characters spelled out."""
    return html.escape(visible(text))


def counted(counts: Mapping[str, int]) -> str:
    """Return names with their counts, by name; ``none`` where there are none."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def count_rows(counts: Iterable[SplitCounts], head: str) -> list[dict[str, str]]:
    """Return a row a split of what validation found in it; ``head`` stands above the names."""
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


def shown_retention(retention: Retention) -> str:
    """Return in a line what fine-tuning left of the mean recall on held-out pretraining pairs."""
    before, after = 100 * retention.before, 100 * retention.after
    return (
        f"mean recall on {retention.pairs:,} held-out pretraining pairs {before:.1f} % before, "
        f"{after:.1f} % after fine-tuning"
    )


def _is_hidden(character: str) -> bool:
    is_joiner = character in "\u200c\u200d"
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and not is_joiner
