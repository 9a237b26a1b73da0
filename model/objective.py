"""What a stage minimises: InfoNCE and the terms beside it, with the state that they keep from step to step."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from model.batches import PairInput
from model.concept_table import read_concepts
from model.concepts import Vocabulary, count_concepts, mine_concepts
from model.distillation import Taught, distillation
from model.distributed import gather_rows, mean_over_ranks, rank_of_world
from model.errors import DataError
from model.loss import MAX_LOG_SCALE, concept_matching, find_duplicates, info_nce
from model.prototypes import FeatureQueue, concept_targets
from model.sections import StageConfig
from model.towers import Towers

# The concepts that each pair's caption names, int32 [N, M], padded with -1.
Labels = npt.NDArray[np.int32]

CONCEPT_SCALE_START = 10.0


class Embedded(NamedTuple):
    """What the losses see of B pairs: their embeddings, float32 [B, D], and what else is known of them.

    ``ids`` int64 [B, 2] is that of `model.batches.Batch`, ``concepts`` int64 [B, M] numbers those that a caption names.
    """

    image: torch.Tensor
    text: torch.Tensor
    ids: torch.Tensor
    concepts: torch.Tensor | None = None

    def of_all_processes(self) -> "Embedded":
        """Return the pairs of the whole batch, those of every process."""
        concepts = None if self.concepts is None else gather_rows(self.concepts)
        return Embedded(gather_rows(self.image), gather_rows(self.text), gather_rows(self.ids), concepts)


class Objective(torch.nn.Module):
    """InfoNCE, and beside it the concept-matching and nearest-neighbour losses that a feature queue serves.

    Each process of a launched group calls it with its own part of the batch and gets each term as a mean over that
    part; the mean over the processes is the term of the whole batch, in value and, by
    `model.distributed.average_`, in gradient. A term that is a plain mean over pairs is right as it stands.
    """

    def __init__(self, towers: Towers, stage: StageConfig, vocabulary: Vocabulary | None) -> None:
        """Make the objective of a stage; without a vocabulary it is plain InfoNCE."""
        super().__init__()
        self.weight, self.nearest_weight = stage.concept_weight, stage.nearest_weight
        self.warms_up = stage.term_warmup
        self.distill_weight, self.distill_form = stage.distill_weight, stage.distill_form
        self.mask_duplicates = stage.mask_duplicates
        self.queue: FeatureQueue | None = None
        if vocabulary is not None and (self.weight or self.nearest_weight):
            self.queue = FeatureQueue(stage.queue_size, len(vocabulary), towers.embed_dim)
            self.log_scale = torch.nn.Parameter(torch.tensor(math.log(CONCEPT_SCALE_START)))
            self.register_buffer("idf", vocabulary.idf())
        self.to(towers.device)

    idf: torch.Tensor

    def forward(
        self, pairs: Embedded, logit_scale: torch.Tensor, taught: Taught | None = None
    ) -> dict[str, torch.Tensor]:
        """Return each loss term of this process's pairs by name, and ``loss``, the sum that is minimised."""
        everyone = pairs.of_all_processes()
        terms = {"info_nce": self._info_nce(pairs, everyone, logit_scale)}
        total = terms["info_nce"]
        if self.queue is not None:
            share = self.queue.filled_share() if self.warms_up else 1.0
            if self.nearest_weight:
                terms["nearest"] = self._nearest_loss(self.queue, pairs, everyone, logit_scale)
                total = total + share * self.nearest_weight * terms["nearest"]
            assert everyone.concepts is not None, "a queue is fed with what captions name"
            self.queue.push(everyone.image, everyone.text, everyone.concepts, everyone.ids[:, 0])
            if self.weight:
                terms["concept"] = self._concept_loss(self.queue, pairs)
                total = total + share * self.weight * terms["concept"]
        if taught is not None:
            everyone_taught = Taught(gather_rows(taught.image), gather_rows(taught.text), taught.logit_scale)
            terms["distill"] = distillation(
                *pairs[:2], logit_scale, taught, self.distill_form, *everyone[:2], everyone_taught
            )
            total = total + self.distill_weight * terms["distill"]
        return {"loss": total, **terms}

    def _info_nce(self, pairs: Embedded, everyone: Embedded, logit_scale: torch.Tensor) -> torch.Tensor:
        first = rank_of_world()[0] * len(pairs.ids)
        duplicates_LB = find_duplicates(pairs.ids, everyone.ids, first) if self.mask_duplicates else None
        return info_nce(pairs.image, pairs.text, logit_scale, everyone.image, everyone.text, duplicates_LB, first)

    def _nearest_loss(
        self, queue: FeatureQueue, pairs: Embedded, everyone: Embedded, logit_scale: torch.Tensor
    ) -> torch.Tensor:
        """Return InfoNCE with the queue's nearest text of another caption in each caption's place.

        Source: Li et al. 2022, Supervision Exists Everywhere (DeCLIP), nearest-neighbour supervision.
        """
        nearest = queue.nearest_texts(everyone.text, everyone.ids[:, 0])
        first = rank_of_world()[0] * len(pairs.ids)
        borrowed = pairs._replace(text=nearest[first : first + len(pairs.ids)])
        return self._info_nce(borrowed, everyone._replace(text=nearest), logit_scale)

    def _concept_loss(self, queue: FeatureQueue, pairs: Embedded) -> torch.Tensor:
        assert pairs.concepts is not None
        known_C = queue.is_known()
        targets_BC = concept_targets(pairs.concepts, self.idf, known_C)[:, known_C]
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        prototypes_CD = queue.prototypes()[known_C]
        loss = concept_matching(pairs.image, pairs.text, *queue.means(), prototypes_CD, targets_BC, scale)
        # A mean over the pairs that name a concept, of which one process's part may hold more than another's.
        named = (targets_BC.sum(dim=1) > 0).sum()
        return loss * (named / mean_over_ranks(named).clamp(min=1e-12))


def label_concepts(pairs: PairInput, stage: StageConfig) -> tuple[Vocabulary | None, Labels | None]:
    """Return the concepts of the train captions and label each pair with those that it names, where a stage uses them.

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
    """Return the concepts of captions: mined, or those of the table that the stage names, with their counts here.

    Raises:
        DataError: the captions name no concept.
        ConfigError: the table cannot be used.
    """
    if stage.concepts is not None:
        vocabulary = count_concepts(captions, read_concepts(Path(stage.concepts)))
        if not any(vocabulary.counts):
            raise DataError(f"{stage.concepts}: no train caption names any of its {len(vocabulary)} concepts")
        return vocabulary
    vocabulary = mine_concepts(captions, stage.min_concept_count, stage.max_concepts)
    if not len(vocabulary):
        raise DataError(
            f"no concept is named by {stage.min_concept_count} train captions; "
            "lower min_concept_count or set concept_weight and keyword_share to 0"
        )
    return vocabulary
