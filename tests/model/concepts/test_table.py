"""A person may edit the table of concepts: it is used as edited, or refused in a sentence."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.batches.loading import PairInput, pair_input
from model.concepts.labels import label_concepts, make_vocabulary
from model.concepts.mining import mine_concepts
from model.concepts.table import CONCEPTS_FILE, CONCEPTS_SCHEMA, read_concepts, write_concepts
from model.errors import CommerceClipError, ConfigError, DataError
from model.towers.towers import Towers
from tests.tiny import TinyData, tiny_stage_config

CAPTIONS = (
    ["Navy-Blue shoes"] * 3
    + ["bag of navy blue"] * 3
    + ["红色连衣裙, red shoe"] * 3
    + ["vase"] * 30
)


def write(path: Path, concepts: list[object]) -> Path:
    pq.write_table(pa.table({"concept": concepts}), path)
    return path


def test_the_table_holds_concepts_counts_weights_and_examples_the_most_frequent_first(
    tmp_path: Path,
) -> None:
    vocabulary = mine_concepts(CAPTIONS, 3)
    write_concepts(vocabulary, tmp_path / CONCEPTS_FILE)
    table = pq.read_table(tmp_path / CONCEPTS_FILE)
    assert table.schema.equals(CONCEPTS_SCHEMA)
    rows = table.to_pylist()
    assert [(row["concept"], row["count"]) for row in rows[:3]] == [
        ("vase", 30),
        ("navy blue", 6),
        ("shoe", 6),
    ]
    assert rows[1]["idf"] == pytest.approx(1.8718, abs=1e-4)
    assert rows[1]["examples"] == ["Navy-Blue shoes", "bag of navy blue"]
    assert rows[2]["examples"] == ["Navy-Blue shoes", "红色连衣裙, red shoe"]
    assert sorted(read_concepts(tmp_path / CONCEPTS_FILE).phrases) == list(vocabulary.phrases)


def test_the_same_concepts_leave_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_concepts(mine_concepts(CAPTIONS, 3), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture
def pairs(towers: Towers, tiny_data: TinyData) -> PairInput:
    return pair_input(towers.input_spec, tiny_data.train_index())


def test_rows_deleted_and_added_by_hand_are_what_pairs_are_labelled_with(
    pairs: PairInput, tmp_path: Path
) -> None:
    table = write(tmp_path / "edited.parquet", ["Red Shirts", "red", "evening gown"])
    vocabulary, labels = label_concepts(pairs, tiny_stage_config(concepts=str(table)))
    assert vocabulary is not None and labels is not None
    assert vocabulary.phrases == ("Red Shirts", "red", "evening gown") and vocabulary.counts == (
        2,
        6,
        0,
    )
    for row, caption in enumerate(pairs.index.captions()):
        expected = [0] if caption == "red shirt" else [1] if caption.startswith("red") else []
        assert [number for number in labels[row] if number >= 0] == expected
    assert vocabulary.idf().isfinite().all()


def test_a_table_of_pandas_is_read_too(tmp_path: Path) -> None:
    frame = pq.read_table(write(tmp_path / "a.parquet", ["red", "blue bag"])).to_pandas()
    frame[frame["concept"] != "red"].to_parquet(tmp_path / "b.parquet")
    assert read_concepts(tmp_path / "b.parquet").phrases == ("blue bag",)


@pytest.mark.parametrize(
    ("concepts", "sentence"),
    [
        ([], r"no concepts; add rows, or set concepts to null"),
        (["red", "--"], r"row 2: '--' has no letter or digit"),
        (["red", None], r"row 2: None has no letter or digit"),
        (
            ["T-shirt", "red", "tshirts"],
            r"row 3: 'tshirts' is the same concept as 'T-shirt' in row 1",
        ),
        (["x" * 101], r"row 1: a concept of 101 characters; at most 100"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    concepts: list[object], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "edited.parquet"
    pq.write_table(pa.table({"concept": pa.array(concepts, pa.string())}), path)
    with pytest.raises(ConfigError, match=sentence):
        read_concepts(path)


def test_what_is_no_table_of_concepts_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("concept\nred\n")
    pq.write_table(pa.table({"phrase": ["red"]}), tmp_path / "column.parquet")
    write(tmp_path / "list.parquet", [["red"], ["blue"]])
    for name in ("none.parquet", "text.parquet", "column.parquet", "list.parquet"):
        with pytest.raises(
            ConfigError, match=rf"{name}: no table of concepts \(a Parquet file with a text column"
        ):
            read_concepts(tmp_path / name)


def test_a_table_that_the_captions_know_nothing_of_is_refused(
    pairs: PairInput, tmp_path: Path
) -> None:
    table = write(tmp_path / "edited.parquet", ["teapot", "spoon"])
    with pytest.raises(DataError, match="no train caption names any of its 2 concepts"):
        label_concepts(pairs, tiny_stage_config(concepts=str(table)))


def test_concepts_are_mined_for_keyword_queries_alone_and_not_where_nothing_uses_them(
    pairs: PairInput,
) -> None:
    assert label_concepts(pairs, tiny_stage_config(concept_weight=0)) == (None, None)
    vocabulary, _ = label_concepts(pairs, tiny_stage_config(concept_weight=0, keyword_share=0.5))
    assert vocabulary is not None and "red" in vocabulary.phrases
    with pytest.raises(CommerceClipError, match="no concept is named by 60 train captions"):
        label_concepts(pairs, tiny_stage_config(min_concept_count=60))


def test_at_its_minimum_nobody_is_told_to_lower_the_count() -> None:
    stage = tiny_stage_config(min_concept_count=2)
    with pytest.raises(DataError, match="named by 2 train captions; set concept_weight"):
        make_vocabulary(["red", "blue"], stage)
    with pytest.raises(DataError, match="lower min_concept_count or set"):
        make_vocabulary(["red", "blue"], tiny_stage_config(min_concept_count=3))


def test_a_table_of_another_language_is_searched_for_in_that_language(tmp_path: Path) -> None:
    captions = ["robe pour femme", "robes de femme", "sac avec fleurs"] * 3
    vocabulary = make_vocabulary([*captions, "vase"], tiny_stage_config(min_concept_count=3))
    assert vocabulary.language == "other" and {"robe", "robes"} <= set(vocabulary.phrases)
    write_concepts(vocabulary, tmp_path / CONCEPTS_FILE)
    read = read_concepts(tmp_path / CONCEPTS_FILE)
    assert read.language == "other" and len(read.find("deux robes")) == 1
    english = make_vocabulary([*captions, "vase"], tiny_stage_config(min_concept_count=3), "en")
    assert "robes" not in english.phrases


def test_captions_are_read_in_the_language_that_the_config_names(pairs: PairInput) -> None:
    for language in ("en", "other"):
        vocabulary, _ = label_concepts(pairs, tiny_stage_config(), language)
        assert vocabulary is not None and vocabulary.language == language
