"""The concepts that the captions of an index name, as labels that the losses read."""

from collections.abc import Iterable
from pathlib import Path

from model.batches.loading import PairInput
from model.concepts.mining import ConceptLabels, Vocabulary, count_concepts, mine_concepts
from model.concepts.table import read_concepts
from model.config.sections import FEWEST_CAPTIONS, LanguageChoice, StageConfig
from model.errors import DataError
from model.pairs.words import language_of


def label_concepts(
    pairs: PairInput, stage: StageConfig, language: LanguageChoice = "auto"
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
    vocabulary = make_vocabulary(captions, stage, language)
    return vocabulary, vocabulary.label(captions)


def make_vocabulary(
    captions: Iterable[str], stage: StageConfig, language: LanguageChoice = "auto"
) -> Vocabulary:
    """Mine the concepts of captions, or count those of the table that the stage names.

    Raises:
        DataError: the captions name no concept.
        ConfigError: the table cannot be used.
    """
    spoken = language_of(captions) if language == "auto" else language
    if stage.concepts is not None:
        vocabulary = count_concepts(captions, read_concepts(Path(stage.concepts), spoken))
        if not any(vocabulary.counts):
            raise DataError(
                f"{stage.concepts}: no train caption names any of its {len(vocabulary)} concepts"
            )
        return vocabulary

    least = stage.min_concept_count
    vocabulary = mine_concepts(captions, least, stage.max_concepts, spoken)
    if not len(vocabulary):
        advice = "lower min_concept_count or " if least > FEWEST_CAPTIONS else ""
        raise DataError(
            f"no concept is named by {least} train captions; "
            f"{advice}set concept_weight and keyword_share to 0"
        )
    return vocabulary
