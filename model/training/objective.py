"""What a stage minimises: InfoNCE or the sigmoid loss, and terms beside it with their state."""

import math
from typing import NamedTuple

import torch

from model.concepts.mining import Vocabulary
from model.concepts.prototypes import FeatureQueue, concept_targets
from model.config.sections import StageConfig
from model.errors import ConfigError
from model.towers.towers import Towers
from model.training.distillation import Taught
from model.training.distributed import gather_rows, mean_over_ranks, rank_of_world
from model.training.losses import (
    MAX_LOG_SCALE,
    concept_matching,
    embedding_distance,
    find_duplicates,
    info_nce,
    sigmoid_matching,
)

CONCEPT_SCALE_START = 10.0


class EmbeddedPairs(NamedTuple):
    """What the losses know of B pairs: their embeddings, float32 [B, D], and what they are.

    ``ids`` int64 [B, 2] is that of `model.batches.loading.Batch`, ``concepts`` int64 [B, M] numbers
    those that a caption names.
    """

    image: torch.Tensor
    text: torch.Tensor
    ids: torch.Tensor
    concepts: torch.Tensor | None = None


class Objective(torch.nn.Module):
    """InfoNCE or SigLIP's sigmoid loss, and beside it the terms that a queue serves, and a teacher.

    Each process of a launched group calls it with its own part of the batch and gets each term as a
    mean over that part; the mean over the processes is the term of the whole batch, in value and,
    by `model.training.distributed.average_`, in gradient. A term that is a plain mean over pairs is
    right as it stands.
    """

    def __init__(self, towers: Towers, stage: StageConfig, vocabulary: Vocabulary | None) -> None:
        """Make a stage's objective; without a vocabulary it is the plain loss of image and text.

        Raises:
            ConfigError: the stage wants the sigmoid loss of towers that have no logit bias.
        """
        super().__init__()
        has_bias = getattr(towers.clip, "logit_bias", None) is not None
        if stage.loss == "sigmoid" and not has_bias:
            raise ConfigError(
                "loss is sigmoid, but these towers have no logit bias for it; "
                "set loss to info_nce or auto"
            )
        self.is_sigmoid = has_bias and stage.loss != "info_nce"
        self.stage = stage

        # Only what is used is made, because the buffers of all of it are in each checkpoint.
        self.queue: FeatureQueue | None = None
        if vocabulary is not None and (stage.concept_weight or stage.nearest_weight):
            self.queue = FeatureQueue(stage.queue_size, len(vocabulary), towers.embed_dim)
            self.log_scale = torch.nn.Parameter(torch.tensor(math.log(CONCEPT_SCALE_START)))
            self.idf = torch.nn.Buffer(vocabulary.idf())
        self.to(towers.device)

    def forward(
        self,
        pairs: EmbeddedPairs,
        logit_scale: torch.Tensor,
        taught: Taught | None = None,
        logit_bias: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute each loss term of this process's pairs by name, and their weighted sum ``loss``.

        ``logit_scale`` is the factor itself, ``logit_bias`` what the towers of a sigmoid loss have
        beside it.
        """
        # The pairs of the whole batch, those of every process.
        everyone = EmbeddedPairs._make(
            None if each is None else gather_rows(each) for each in pairs
        )
        total = self._contrast(pairs, everyone, logit_scale, logit_bias)
        terms = {"sigmoid" if self.is_sigmoid else "info_nce": total}

        if self.queue is not None:
            # Neighbours are looked for before the batch is in the queue, prototypes made after.
            if self.stage.nearest_weight:
                # Images meet the nearest text of another caption in place of their own. Source: Li
                # et al. 2022, Supervision Exists Everywhere (DeCLIP).
                texts = self.queue.nearest_texts(everyone.text, everyone.ids[:, 0])
                borrowed = texts[rank_of_world()[0] * len(pairs.ids) :][: len(pairs.ids)]
                terms["nearest"] = self._contrast(
                    pairs._replace(text=borrowed),
                    everyone._replace(text=texts),
                    logit_scale,
                    logit_bias,
                )
                total = total + self.stage.nearest_weight * terms["nearest"]
            assert everyone.concepts is not None, "a queue is fed with what captions name"
            self.queue.push(everyone.image, everyone.text, everyone.concepts, everyone.ids[:, 0])
            if self.stage.concept_weight:
                terms["concept"] = self._concept_loss(self.queue, pairs)
                total = total + self.stage.concept_weight * terms["concept"]

        if taught is not None:
            terms["distill"] = embedding_distance(pairs.image, pairs.text, *taught)
            total = total + self.stage.distill_weight * terms["distill"]
        return {"loss": total, **terms}

    def _contrast(
        self,
        pairs: EmbeddedPairs,
        everyone: EmbeddedPairs,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compute InfoNCE or the sigmoid loss of this process's pairs among everyone's."""
        first = rank_of_world()[0] * len(pairs.ids)
        is_masked = self.stage.mask_duplicates
        duplicates_LB = find_duplicates(pairs.ids, everyone.ids, first) if is_masked else None
        image_LD, text_LD, all_image_BD, all_text_BD = *pairs[:2], *everyone[:2]

        if self.is_sigmoid:
            assert logit_bias is not None, "the towers have one"
            return sigmoid_matching(
                image_LD, text_LD, logit_scale, logit_bias, all_text_BD, duplicates_LB, first
            )
        return info_nce(
            image_LD, text_LD, logit_scale, all_image_BD, all_text_BD, duplicates_LB, first
        )

    def _concept_loss(self, queue: FeatureQueue, pairs: EmbeddedPairs) -> torch.Tensor:
        assert pairs.concepts is not None
        known_C = queue.is_known()
        targets_BC = concept_targets(pairs.concepts, self.idf, known_C)[:, known_C]
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        image_mean_D, text_mean_D = queue.means()
        prototypes_CD = queue.prototypes()[known_C]
        loss = concept_matching(
            *pairs[:2], image_mean_D, text_mean_D, prototypes_CD, targets_BC, scale
        )
        # A mean over the pairs that name a concept, of which one process's part may hold more than
        # another's.
        named = (targets_BC.sum(dim=1) > 0).sum()
        return loss * (named / mean_over_ranks(named).clamp(min=1e-12))
