"""The concepts that the captions of an index name, as labels that the losses read."""

from collections.abc import Iterable
from pathlib import Path

from model.batches.loading import PairInput
from model.concepts.mining import ConceptLabels, Vocabulary, count_concepts, mine_concepts
from model.concepts.table import read_concepts
from model.config.sections import StageConfig
from model.errors import DataError


def label_concepts(
    pairs: PairInput, stage: StageConfig
) -> tuple[Vocabulary | None, ConceptLabels | None]:
    """Find the concepts of the train captions and label each pair with those that it names.

    Both are None where the stage uses no concepts.

    Raises:
        DataError: the captions name no concept.
        ConfigError: the table of concepts cannot be used.
    """
    if stage.concept_weight == stage.nearest_weight == stage.keyword_share == 0:
        return None, None
    captions = pairs.index.captions()
    vocabulary = make_vocabulary(captions, stage)
    return vocabulary, vocabulary.label(captions)


def make_vocabulary(captions: Iterable[str], stage: StageConfig) -> Vocabulary:
    """Mine the concepts of captions, or count those of the table that the stage names.

    Raises:
        DataError: the captions name no concept.
        ConfigError: the table cannot be used.
    """
    if stage.concepts is not None:
        vocabulary = count_concepts(captions, read_concepts(Path(stage.concepts)))
        if not any(vocabulary.counts):
            raise DataError(
                f"{stage.concepts}: no train caption names any of its {len(vocabulary)} concepts"
            )
        return vocabulary

    vocabulary = mine_concepts(captions, stage.min_concept_count, stage.max_concepts)
    if not len(vocabulary):
        raise DataError(
            f"no concept is named by {stage.min_concept_count} train captions; "
            "lower min_concept_count or set concept_weight and keyword_share to 0"
        )
    return vocabulary
