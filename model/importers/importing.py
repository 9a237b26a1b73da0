"""Other people's product data sets become pairs: one function, a table of kinds, a module a format.

An import reads each source once and keeps memory flat; encoded images are passed through byte for
byte, and only raw pixels (Fashion-Gen) are encoded. It writes ``<split>.tsv`` and, where the source
knows its products, ``<split>.products.csv`` into a folder that can be ingested; every row that
becomes no pair is counted and named.

To add a format: a module with its options and ``find_splits(sources, options) ->
list[SplitSource]``, a line in KINDS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.errors import ConfigError, DataError, nearest
from model.importers import chinese_clip, easynlp, fashion_gen, table, webdataset
from model.importers.assigning import assign_products
from model.importers.cleaning import clean_captions
from model.importers.records import (
    ImportedSplit,
    ImportOptions,
    LeftOutReason,
    LeftOutRows,
    SplitSource,
)
from model.importers.writer import OnRows, tsv_path, write_split
from model.pairs.splits import side_table_path

__all__ = ["KINDS", "ImportedSplit", "Kind", "LeftOutReason", "LeftOutRows", "import_pairs"]


@dataclass(frozen=True)
class Kind:
    """A format: what it is in a few words, its options, and the function that finds its splits."""

    about: str
    options: type[ImportOptions]
    find_splits: Callable[[Sequence[Path], Any], list[SplitSource]]


_CHINESE_CLIP = Kind("texts.jsonl and imgs.tsv files", ImportOptions, chinese_clip.find_splits)

KINDS: Mapping[str, Kind] = {
    "fashion-gen": Kind("Fashion-Gen's HDF5 files", fashion_gen.Options, fashion_gen.find_splits),
    "muge": _CHINESE_CLIP,
    "chinese-clip": _CHINESE_CLIP,
    "webdataset": Kind(
        "tar shards of webdataset or img2dataset", webdataset.Options, webdataset.find_splits
    ),
    "csv": Kind("CSV or Parquet beside image files", table.Options, table.find_splits),
    "easynlp": Kind("TSV files of EasyNLP", easynlp.Options, easynlp.find_splits),
}


def import_pairs(
    kind: str,
    sources: Sequence[Path | str],
    out: Path,
    options: Mapping[str, Any] | None = None,
    on_rows: OnRows = lambda rows: None,
    on_split: Callable[[str, int | None], None] = lambda split, rows: None,
) -> list[ImportedSplit]:
    """Import files or folders of a kind into a folder, split by split.

    ``options`` are checked against the kind's. ``on_split`` is called with the name of each split
    before it is read, and with its rows where they are known; ``on_rows`` with the rows read since
    its last call. A split whose rows are all left out is returned, not written.

    Raises:
        ConfigError: the kind or an option is unknown or impossible.
        DataError: a source is missing, damaged or of another format, or no split has a pair.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"{kind}: no such kind of data set{nearest(kind, KINDS)} (known: {', '.join(KINDS)})"
        )
    checked = _check_options(kind, options or {})
    if not sources:
        raise ConfigError(f"import {kind}: no source; name {KINDS[kind].about} or their folder")

    # Everything that can be refused is refused before a byte is written.
    found = KINDS[kind].find_splits([Path(source) for source in sources], checked)
    if checked.assign == "product":
        found = assign_products(found)
    _check_outputs(found, out)

    imported = []
    for source in found:
        on_split(source.split, source.rows)
        read = clean_captions(source) if checked.clean_html else source
        imported.append(write_split(read, out, on_rows))

    if not any(split.pairs for split in imported):
        raise DataError(
            f"{', '.join(map(str, sources))}: no row became a pair: {_reasons(imported)}"
        )
    return imported


def _check_options(kind: str, options: Mapping[str, Any]) -> ImportOptions:
    model = KINDS[kind].options
    for key in options:
        if key not in model.model_fields:
            raise ConfigError(
                f"import {kind}: no option '{key}'{nearest(key, model.model_fields)} "
                f"(known: {', '.join(model.model_fields)})"
            )

    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        problems = [
            f"{detail['loc'][0]} is {detail['input']!r}: {detail['msg']}"
            for detail in error.errors()
        ]
        raise ConfigError(f"import {kind}: {'; '.join(problems)}") from None


def _check_outputs(found: Sequence[SplitSource], out: Path) -> None:
    """Refuse an import that would write one file twice, or over a file that it reads."""
    splits = [source.split for source in found]
    twice = next((split for split in splits if splits.count(split) > 1), None)
    if twice is not None:
        files = [path.name for source in found if source.split == twice for path in source.files]
        raise DataError(
            f"{', '.join(files)}: all would become {twice}.tsv; "
            "import them one by one with the option split"
        )

    read = {path.resolve() for source in found for path in source.files}
    written = [tsv_path(out, split) for split in splits]
    for path in (*written, *map(side_table_path, written)):
        if path.resolve() in read:
            raise DataError(
                f"{path}: is a source and would be written over; "
                "choose another folder for the output"
            )


def _reasons(imported: Sequence[ImportedSplit]) -> str:
    """Return which reasons left out how many rows, the names of the first, and what to do."""
    reasons = [
        f"{split.split} {left.rows:,} {reason} "
        f"({', '.join(left.names)}{', …' if left.rows > len(left.names) else ''})"
        for split in imported
        for reason, left in split.left_out.items()
    ]
    advice = dict.fromkeys(line for split in imported for line in split.advice)
    return "; ".join([*reasons, *advice]) or "the sources hold no row"
