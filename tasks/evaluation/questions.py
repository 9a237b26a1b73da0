"""What models are asked: the test split with its products, side table, queries and candidates.

All of it depends on the data version, the config and the seed alone, so every model answers the
same questions. For what cannot be asked, because test has no such column, there is a note.

Shapes: Q distinct captions, C distinct images, R pairs (rows), K candidates of a query.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from model.concepts.mining import Phrases
from model.config.sections import EvaluateConfig
from model.evaluation.protocols import WRONG, CandidateSets, draw_candidates, relate_products
from model.evaluation.queries import (
    KeywordQueries,
    caption_queries,
    field_queries,
    keyword_queries,
    label_queries,
)
from model.evaluation.retrieval import DIRECTIONS, Ints, RelevantPairs, relate
from model.evaluation.slices import age_labels, length_labels
from model.pairs.index import PairIndex
from model.pairs.splits import product_ids, read_side_table
from model.storage.files import atomic_write

KEYWORDS, FIELDS, CAPTIONS = "keyword", "field", "caption"
LENGTH, AGE = "caption length", "data age"
CANDIDATES_FILE = "candidates-101.parquet"


@dataclass(frozen=True)
class Questions:
    """All that models are asked about a test split.

    ``related`` are pair-level relations and ``products`` product-level ones, on the same captions
    and images; ``group`` says which product each caption [Q] and image [C] belongs to. ``concepts``
    are those that each caption names. ``queries`` holds queries that many images answer, by name;
    ``labels`` the label of each image by column, "" for none, and ``known_labels`` those that train
    has; ``slices`` that of each product by column, products in the order of their groups.
    ``notes`` are sentences about what could not be asked.
    """

    related: RelevantPairs
    products: RelevantPairs
    group: tuple[Ints, Ints]
    captions: list[str]
    concepts: list[list[int]]
    candidates: CandidateSets | None
    queries: dict[str, KeywordQueries]
    labels: dict[str, list[str]]
    slices: dict[str, list[str]]
    known_labels: Mapping[str, Collection[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def caption_of_image(self) -> Tensor:
        """The first caption that each image belongs to, int64 [C]."""
        first = self.related.query.new_full((len(self.related.image_row),), len(self.captions))
        return first.scatter_reduce(0, self.related.candidate, self.related.query, "amin")

    @property
    def has_products(self) -> bool:
        """Whether some caption has more right answers among products than among pairs."""
        return len(self.products.query) > len(self.related.query)


def make_questions(
    test: PairIndex,
    phrases: Phrases,
    config: EvaluateConfig,
    seed: int,
    known_labels: Mapping[str, Collection[str]] | None = None,
) -> Questions:
    """Make the questions of a test split; ``known_labels`` are those that train has by column.

    Raises:
        DataError: a caption is not the one that was profiled, or the side table cannot be read.
    """
    # Pairs with equal captions or equal images are one query or one candidate.
    captions_R, images_R = test.caption_hash.tolist(), test.image_hash.tolist()
    fields = _fields(test)
    related = relate(captions_R, images_R)
    products = relate_products(captions_R, images_R, fields["id"]) if "id" in fields else related
    caption_group, image_group = (group.numpy() for group in products.groups())

    captions = [test.caption(row) for row in related.caption_row.tolist()]
    of_image = {
        column: [values[row] for row in related.image_row.tolist()]
        for column, values in fields.items()
    }
    notes: list[str] = []

    # A product's slice is that of the first row of its first caption, whose number the group is.
    first = np.unique(caption_group).tolist()
    product_rows = related.caption_row[first].tolist()
    slices = {
        column: [fields[column][row] for row in product_rows]
        for column in config.slice_columns
        if column in fields
    }
    # What every split has, or derives from a date.
    slices[LENGTH] = length_labels([captions[number] for number in first])
    if config.age_column in fields:
        slices[AGE] = age_labels([fields[config.age_column][row] for row in product_rows])

    return Questions(
        related=related,
        products=products,
        group=(caption_group, image_group),
        captions=captions,
        concepts=[phrases.find(caption) for caption in captions],
        candidates=_candidates(related, products, fields, config, seed, notes),
        queries=_queries(captions, related, phrases, of_image, config, notes),
        labels={column: of_image[column] for column in config.label_columns if column in of_image},
        slices=slices,
        known_labels=known_labels or {},
        notes=notes,
    )


def read_labels(tsv: Path, columns: Collection[str]) -> dict[str, set[str]]:
    """Read the distinct labels of a TSV's side table by column; none where there is no table.

    Raises:
        DataError: the side table cannot be read.
    """
    table = read_side_table(tsv, required=False)
    return {
        column: {value.strip() for value in table[column].unique().to_pylist()}
        for column in columns
        if table is not None and column in table.column_names
    }


def write_candidates(test: PairIndex, questions: Questions, seed: int, folder: Path) -> Path | None:
    """Leave the drawn candidates, if any, as Parquet with a row a query, and return its path.

    ``query_line`` and ``candidate_lines`` are lines of the test TSV from 1, the right answer's
    first.

    Raises:
        CheckpointError: the file cannot be written.
    """
    if questions.candidates is None:
        return None

    # Candidates are numbered among distinct captions or images; people look up lines.
    related = questions.related
    lines_of = [test.line[rows.numpy()] for rows in (related.caption_row, related.image_row)]
    parts = [
        pa.table(
            {
                "direction": [direction] * len(own),
                "query_line": own,
                "candidate_lines": [
                    theirs[row_K[row_K >= 0]] for row_K in getattr(questions.candidates, direction)
                ],
            }
        )
        for direction, own, theirs in zip(DIRECTIONS, lines_of, reversed(lines_of), strict=True)
    ]

    origin = {"seed": str(seed), "tsv": test.files[0].name}
    path = folder / CANDIDATES_FILE
    with atomic_write(path) as file:
        table = pa.concat_tables(parts).replace_schema_metadata(origin)
        pq.write_table(table, file, write_page_checksum=True)
    return path


def fewer_than_101(candidates: CandidateSets | None) -> dict[str, list[int]]:
    """Return by direction how many queries have fewer than 100 wrong candidates, and of all."""
    if candidates is None:
        return {}
    drawn = {way: (getattr(candidates, way) >= 0).sum(axis=1) for way in DIRECTIONS}
    return {way: [int((count <= WRONG).sum()), len(count)] for way, count in drawn.items()}


def _fields(test: PairIndex) -> dict[str, list[str]]:
    """Read the side table's columns at the rows of the index; none where there is no side table."""
    table = read_side_table(test.files[0], required=False)
    if table is None:
        return {}
    rows = table.take(test.line - 1)
    fields = {
        column: [value.strip() for value in rows[column].to_pylist()]
        for column in rows.column_names
    }
    return fields | ({"id": product_ids(rows)} if "id" in fields else {})


def _candidates(
    related: RelevantPairs,
    products: RelevantPairs,
    fields: dict[str, list[str]],
    config: EvaluateConfig,
    seed: int,
    notes: list[str],
) -> CandidateSets | None:
    """Draw wrong answers of each query's own kind, or note why that is impossible."""
    if "101" not in config.protocols:
        return None
    if config.sampled_column not in fields:
        notes.append(
            "protocol 101 is left out: test has no side table with a column "
            f"{config.sampled_column} (evaluate.sampled_column)"
        )
        return None

    of_caption, of_image = (
        [fields[config.sampled_column][row] for row in rows.tolist()]
        for rows in (related.caption_row, related.image_row)
    )
    drawn = draw_candidates(related, products, of_caption, of_image, seed)

    # A rare kind may not have as many; its queries are easier than the protocol's name says.
    counts = (drawn.text_to_image >= 0).sum(axis=1)
    if (counts <= WRONG).any():
        notes.append(
            f"protocol 101: {(counts <= WRONG).sum():,} of {len(counts):,} captions have fewer "
            f"than {WRONG} others in their {config.sampled_column}, "
            f"{counts.mean() - 1:.0f} on average; they are ranked among those, and left out where "
            "published figures stand beside ours"
        )
    return drawn


def _queries(
    captions: list[str],
    related: RelevantPairs,
    phrases: Phrases,
    of_image: dict[str, list[str]],
    config: EvaluateConfig,
    notes: list[str],
) -> dict[str, KeywordQueries]:
    """Make the queries that many images answer: concepts, fields, captions and labels, by name."""
    queries = {KEYWORDS: keyword_queries(captions, related, phrases)}

    # The noun names what is wanted, by the first such column that test has; words qualify it.
    noun = next((column for column in config.query_nouns if column in of_image), None)
    words = [column for column in config.query_words if column in of_image]
    if noun is not None and words:
        queries[FIELDS] = field_queries(of_image, [*words, noun])
    else:
        notes.append(
            "queries of fields are left out: test has no side table with one of the columns "
            f"{', '.join(config.query_nouns)} and one of {', '.join(config.query_words)}"
        )

    queries[CAPTIONS] = caption_queries(captions, related)
    queries |= {
        column: label_queries(of_image[column])
        for column in config.label_columns
        if column in of_image
    }
    return {name: each for name, each in queries.items() if each.texts}
