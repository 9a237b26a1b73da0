"""Whether the text tower can read the captions: tokens a word, and captions that it cuts off.

An English BPE makes two or three tokens of each Chinese character, so of a title of 25 it reads the
first half; training would not say so. At most 2,000 captions a split are counted, in half a second;
importing the tokenisers takes as long as training would.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.batches.tokens import read_tokens, token_counts
from model.config.sections import ModelConfig
from model.pairs.index import PairSource, index_pairs
from model.pairs.words import words_of
from model.towers.base import config_tokenizer
from tasks.runtime.environment import models_folder
from tasks.runtime.log import run_logger
from tasks.runtime.page import publish_table
from tasks.runtime.records import Reading
from tasks.validation.accepted import profile_path

COUNTED_CAPTIONS = 2000
# English titles take about 1.5 tokens a word of CLIP's BPE, German ones 2.5, Hindi and Chinese 5.
MOST_TOKENS_A_WORD = 3.5
MOST_LONGER = 0.1


def measure_reading(
    model: ModelConfig, tsvs: Mapping[str, Path], folder: Path
) -> tuple[list[Reading], list[str]]:
    """Count the tokens of each split's captions, and list what to be warned of.

    A tokeniser that has to be downloaded and cannot be is left to the training.

    Raises:
        ConfigError: the model or its vocabulary is unknown.
        DataError: a TSV is not the one that was profiled.
    """
    try:
        tokenizer = config_tokenizer(model, models_folder())
    except OSError as error:
        run_logger().warning("tokens of captions were not counted: %s", error)
        return [], []

    context, found, warnings = read_tokens(tokenizer), list[Reading](), list[str]()
    for name, tsv in tsvs.items():
        index = index_pairs([PairSource(tsv, profile_path(folder, name))])
        rows = np.linspace(0, len(index) - 1, min(COUNTED_CAPTIONS, len(index))).round()
        captions = [index.caption(int(row)) for row in rows]
        counts = token_counts(tokenizer, captions)

        # Marks of start and end are no part of a word.
        words = sum(len(words_of(caption)) for caption in captions)
        each = Reading(
            name=name,
            captions=len(captions),
            context=context,
            tokens_a_word=(sum(counts) - 2 * len(captions)) / max(words, 1),
            longer=sum(count > context for count in counts) / max(len(captions), 1),
        )
        found.append(each)
        warnings += _warnings(each)

    _publish(found)
    return found, warnings


def _warnings(reading: Reading) -> list[str]:
    reasons = []
    if reading.longer > MOST_LONGER:
        reasons.append(
            f"{reading.longer:.0%} of the captions are longer than the {reading.context} tokens "
            "that the text tower reads, and their ends are lost"
        )
    if reading.tokens_a_word > MOST_TOKENS_A_WORD:
        reasons.append(
            f"the model's tokeniser cuts a word into {reading.tokens_a_word:.1f} tokens, so it was "
            "hardly made for this script"
        )
    if not reasons:
        return []
    return [
        f"{reading.name}: {'; '.join(reasons)}; take a model of the captions' language "
        "(docs/models.md), or shorten the captions"
    ]


def _publish(found: list[Reading]) -> None:
    rows = [
        {
            "split": each.name,
            "captions": each.captions,
            "tokens read": each.context,
            "tokens a word": f"{each.tokens_a_word:.2f}",
            "longer": f"{each.longer:.1%}",
        }
        for each in found
    ]
    publish_table(rows, key="tokens", description="How the text tower reads the captions")
    for row in rows:
        run_logger().info(
            "%(split)s: %(tokens a word)s tokens a word, %(longer)s of captions longer than the "
            "%(tokens read)d tokens that are read",
            row,
        )
