"""Captions that are longer than the config allows: named by line, kept, and no end of a run.

A model reads the beginning of such a caption. Only where they are many is a mistake behind them,
such as rows that a quotation mark took in; that is an expectation.
"""

from pathlib import Path

import pyarrow.compute as pc

from model.config.sections import DataConfig
from model.pairs.profile import read_profile
from tasks.validation.accepted import profile_path

LISTED_LONG = 5


def name_long_captions(folder: Path, split: str, limits: DataConfig) -> str | None:
    """Name the first lines of a split whose captions are too long, None where none is.

    Raises:
        DataError: the profile is damaged.
    """
    profile = read_profile(
        profile_path(folder, split), ["line", "caption_chars", "caption_words", "fault"]
    )
    is_long = pc.or_(
        pc.greater(profile["caption_chars"], limits.max_caption_chars),
        pc.greater(profile["caption_words"], limits.max_caption_words),
    )
    found = profile.filter(pc.and_(is_long, pc.is_null(profile["fault"])))["line"].to_pylist()
    if not found:
        return None

    lines = ", ".join(map(str, found[:LISTED_LONG])) + (", …" if found[LISTED_LONG:] else "")
    return (
        f"{split}: {len(found):,} captions of more than {limits.max_caption_chars} characters or "
        f"{limits.max_caption_words} words are kept, of which a model reads the beginning "
        f"(lines {lines})"
    )
