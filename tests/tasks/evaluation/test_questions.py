"""The questions about a split: what they are with a side table, what is told where it lacks."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from model.config.sections import EvaluateConfig
from tasks.evaluation.questions import make_questions, write_candidates
from tests.tasks.evaluated import PHRASES, ask, split


def test_a_side_table_gives_products_slices_labels_and_queries(tmp_path: Path) -> None:
    questions = ask(split(tmp_path))
    assert questions.has_products and len(questions.products.query) == 2 * len(
        questions.related.query
    )
    assert set(questions.slices) == {
        "category",
        "subcategory",
        "colour",
        "caption length",
        "data age",
    }
    assert len(questions.slices["colour"]) == len(np.unique(questions.group[0])) == 16
    assert questions.slices["colour"][:3] == [
        "Red",
        "Red",
        "Green",
    ]  # two products a colour, of two things each
    assert set(questions.labels) == {"category", "subcategory", "colour"}
    assert set(questions.queries) == {
        "keyword",
        "field",
        "caption",
        "category",
        "subcategory",
        "colour",
    }
    assert {text.split()[1] for text in questions.queries["field"].texts} == {
        "shirt",
        "dress",
        "shoe",
        "bag",
    }
    assert questions.concepts[0] == PHRASES.find("red shirt")
    assert (
        len(questions.notes) == 1
        and "32 of 32 captions have fewer than 100 others" in questions.notes[0]
    )


def test_without_a_side_table_the_rest_is_asked_and_the_lack_is_told(tmp_path: Path) -> None:
    questions = ask(split(tmp_path, columns=()))
    assert questions.candidates is None and not questions.has_products
    assert set(questions.slices) == {"caption length"} and questions.labels == {}
    assert set(questions.queries) == {"keyword", "caption"}
    assert [note.split(":")[0] for note in questions.notes] == [
        "protocol 101 is left out",
        "queries of fields are left out",
    ]


def test_a_protocol_that_nobody_wants_is_left_out_silently(tmp_path: Path) -> None:
    questions = ask(split(tmp_path), EvaluateConfig(protocols=("full",)))
    assert questions.candidates is None and questions.notes == []


def test_drawn_candidates_are_written_as_lines_the_right_one_first(tmp_path: Path) -> None:
    test = split(tmp_path)
    questions = ask(test)
    path = write_candidates(test, questions, 0, tmp_path / "out")
    assert path is not None
    table = pq.read_table(path)
    assert table.schema.metadata == {b"seed": b"0", b"tsv": b"test.tsv"}
    rows = table.to_pylist()
    assert [row["direction"] for row in rows] == ["text_to_image"] * 32 + ["image_to_text"] * 32
    for row in rows:
        line, (right, *wrong) = row["query_line"], row["candidate_lines"]
        assert right == line  # every caption and every image occurs once
        # Of the seven others of its thing, each is of another product.
        assert sorted([line, *wrong]) == [1 + (line - 1) % 4 + 4 * number for number in range(8)]
    again = make_questions(test, PHRASES, EvaluateConfig(), seed=0).candidates
    assert again is not None and questions.candidates is not None
    assert np.array_equal(again.text_to_image, questions.candidates.text_to_image)


def test_an_image_s_caption_is_its_first(tmp_path: Path) -> None:
    assert ask(split(tmp_path)).caption_of_image.tolist() == list(range(32))
