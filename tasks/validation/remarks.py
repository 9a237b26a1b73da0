"""What a person should know of accepted data, though it is no reason to refuse it: sentences."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc

from model.config.sections import DataConfig
from model.errors import DataError, FaultReason
from model.pairs.line_facts import HTML
from model.pairs.profile import ProfileSummary, read_profile
from model.pairs.repeats import read_repeats
from model.pairs.splits import are_floats
from model.pairs.tsv import parse_line, read_line_at
from tasks.pages.text import visible
from tasks.runtime.records import SplitCounts
from tasks.validation.accepted import barred_kinds, leaks_path, profile_path
from tasks.validation.leaks import SplitWithProducts
from tasks.validation.long_captions import name_long_captions

EXAMPLE_CHARS = 60


def remarks(
    folder: Path,
    splits: Mapping[str, SplitWithProducts],
    summaries: Mapping[str, ProfileSummary],
    counts: list[SplitCounts],
    limits: DataConfig,
) -> list[str]:
    """List what is unusual: HTML, ids of two forms, leaks that are allowed, long captions.

    Raises:
        DataError: a profile is damaged, or data.on_leak leaves nothing of train.
    """
    leaking = read_repeats(leaks_path(folder, "train"))
    dropped = leaking.filter(pc.is_in(leaking["kind"], barred_kinds(limits, "drop")))
    if summaries["train"].accepted == len(dropped["line"].unique()) > 0:
        raise DataError(
            f"{splits['train'].tsv}: every accepted line shares its "
            f"{' or '.join(sorted(set(dropped['kind'].to_pylist())))} with test, so data.on_leak "
            "leaves none; split the data anew, or set data.on_leak.caption=allow where many images "
            "share a caption"
        )

    found = [
        _html(name, split.tsv, folder, summaries[name].notes[HTML])
        for name, split in splits.items()
        if summaries[name].notes.get(HTML)
    ]

    # pandas makes floats of numbers beside a gap.
    tables = {name: split.products for name, split in splits.items() if split.products is not None}
    floats = [name for name, table in tables.items() if are_floats(table["id"])]
    others = [name for name in tables if name not in floats]
    if floats and others:
        found.append(
            f"the ids of {', '.join(floats)} look like floats (1000.0), those of "
            f"{', '.join(others)} do not; whole floats are compared as whole numbers"
        )

    for count in counts:
        allowed = {
            kind: count.leaks[kind] for kind in limits.on_leak.kinds("allow") if kind in count.leaks
        }
        found += [
            f"{count.name}: {lines:,} lines share their {kind.replace('_', ' ')} with test, which "
            f"data.on_leak.{kind} allows: Rank@K looks the better for it"
            for kind, lines in allowed.items()
        ]
    long_captions = (name_long_captions(folder, name, limits) for name in splits)
    return found + [sentence for sentence in long_captions if sentence is not None]


def _html(name: str, tsv: Path, folder: Path, lines: int) -> str:
    """Say how many captions have HTML, with the first as an example."""
    profile = read_profile(profile_path(folder, name), ["line", "offset", "length", "notes"])
    first = profile.filter(pc.match_substring_regex(profile["notes"], rf"\b{HTML}\b")).slice(0, 1)
    (row,) = first.to_pylist()
    pair = parse_line(read_line_at(tsv, row["offset"], row["length"]))

    caption = "" if isinstance(pair, FaultReason) else pair.caption or ""
    shown = visible(caption[:EXAMPLE_CHARS]) + ("…" if len(caption) > EXAMPLE_CHARS else "")
    return (
        f"{name}: HTML in {lines:,} of the captions, first in line {row['line']} ({shown}); import "
        "them with --set clean_html=true"
    )
