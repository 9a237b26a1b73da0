"""HTML in captions becomes text on the way in, where the option ``clean_html`` asks for it."""

from collections.abc import Iterator
from dataclasses import replace

from model.importers.records import ImportedPair, SourceRow, SplitSource, Untouched
from model.pairs.markup import clean_html


def clean_captions(source: SplitSource) -> SplitSource:
    """Return the same split with captions as a browser shows them; all else stays, byte for byte.

    A caption of markup alone becomes empty, so its row is left out as one without a caption.
    """

    def read() -> Iterator[SourceRow]:
        return map(_cleaned, source.read())

    return replace(source, read=read)


def _cleaned(row: SourceRow) -> SourceRow:
    if isinstance(row, ImportedPair):
        return row._replace(caption=clean_html(row.caption))
    if not isinstance(row, Untouched):
        return row

    # Bytes that are no text are a fault of the line, which validation names.
    caption, tab, image = row.line.partition(b"\t")
    try:
        return row._replace(line=clean_html(caption.decode()).encode() + tab + image)
    except UnicodeDecodeError:
        return row
