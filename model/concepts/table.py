"""Concepts as a table that a person can read, edit and train with again: `concepts.parquet`, a row
a concept.

Only the column ``concept`` is read back: rows may be deleted, added and respelled by hand. Counts,
weights and examples are those of the captions that are trained on, so nobody has to keep them
right.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.concepts.mining import Phrases, Vocabulary, phrase_key
from model.errors import ConfigError
from model.pairs.words import Language
from model.storage.tables import write_table

CONCEPTS_FILE = "concepts.parquet"
CONCEPTS_SCHEMA = pa.schema(
    {
        "concept": pa.string(),
        "count": pa.int64(),
        "idf": pa.float32(),
        "examples": pa.list_(pa.string()),
    }
)
MAX_PHRASE_CHARS = 100
LANGUAGE = b"language"


def write_concepts(vocabulary: Vocabulary, path: Path) -> None:
    """Write the concepts, the most frequent first, each with some captions that name it.

    Raises:
        CheckpointError: the file cannot be written.
    """
    table = pa.table(
        [vocabulary.phrases, vocabulary.counts, vocabulary.idf().numpy(), vocabulary.examples],
        schema=CONCEPTS_SCHEMA,
    )
    table = table.sort_by([("count", "descending"), ("concept", "ascending")])
    if vocabulary.language != "en":
        table = table.replace_schema_metadata({LANGUAGE: vocabulary.language})
    write_table(table, path)


def read_concepts(path: Path, language: Language | None = None) -> Phrases:
    """Read the phrases of a table of concepts, in its order.

    Without a language it is the one that the table was left with, English where it names none.

    Raises:
        ConfigError: the table is missing, damaged or empty, or a phrase cannot be found in captions
        or stands twice.
    """
    try:
        table = pq.read_table(path, columns=["concept"], page_checksum_verification=True)
        left_with = (table.schema.metadata or {}).get(LANGUAGE)
        phrases = pc.cast(table["concept"], pa.string()).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ConfigError(
            f"{path}: no table of concepts (a Parquet file with a text column concept); "
            "begin with the concepts.parquet that a run leaves"
        ) from error

    # Spellings of one concept are told by its language.
    language = language or ("other" if left_with == b"other" else "en")
    rows: dict[str, tuple[int, str]] = {}
    for row, phrase in enumerate(phrases, start=1):
        key = phrase_key(phrase or "", language)
        if not phrase or not key:
            raise ConfigError(
                f"{path} row {row}: {phrase!r} has no letter or digit; "
                "delete the row or name a concept"
            )
        if len(phrase) > MAX_PHRASE_CHARS:
            raise ConfigError(
                f"{path} row {row}: a concept of {len(phrase)} characters; "
                f"at most {MAX_PHRASE_CHARS} are allowed"
            )
        if key in rows:
            raise ConfigError(
                f"{path} row {row}: {phrase!r} is the same concept as {rows[key][1]!r} in row "
                f"{rows[key][0]} (case, hyphens, spaces and plurals do not count); delete one"
            )
        rows[key] = row, phrase

    if not rows:
        raise ConfigError(f"{path}: no concepts; add rows, or set concepts to null to mine them")
    return Phrases(tuple(phrase for _, phrase in rows.values()), language=language)
