"""What a stage minimises: InfoNCE and the terms beside it, with the state that they keep from step to step."""

import math

import numpy as np
import numpy.typing as npt
import torch

from model.batches import PairInput
from model.concepts import Vocabulary, mine_concepts
from model.distillation import Taught, distillation
from model.errors import DataError
from model.loss import MAX_LOG_SCALE, concept_matching, info_nce
from model.prototypes import FeatureQueue, concept_targets
from model.sections import StageConfig
from model.towers import Towers

# The concepts that each pair's caption names, int32 [N, M], padded with -1.
Labels = npt.NDArray[np.int32]

CONCEPT_SCALE_START = 10.0


class Objective(torch.nn.Module):
    """InfoNCE, and the concept-matching loss with its own scale and feature queue where the config wants it."""

    def __init__(self, towers: Towers, stage: StageConfig, vocabulary: Vocabulary | None) -> None:
        """Make the objective of a stage; without a vocabulary it is plain InfoNCE."""
        super().__init__()
        self.weight = stage.concept_weight
        self.distill_weight, self.distill_form = stage.distill_weight, stage.distill_form
        self.queue: FeatureQueue | None = None
        if vocabulary is not None:
            self.queue = FeatureQueue(stage.queue_size, len(vocabulary), towers.embed_dim)
            self.log_scale = torch.nn.Parameter(torch.tensor(math.log(CONCEPT_SCALE_START)))
            self.register_buffer("idf", vocabulary.idf())
        self.to(towers.device)

    idf: torch.Tensor

    def forward(
        self,
        image_BD: torch.Tensor,
        text_BD: torch.Tensor,
        logit_scale: torch.Tensor,
        concepts_BM: torch.Tensor | None,
        taught: Taught | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return each loss term by name, and ``loss``, the sum that is minimised."""
        terms = {"info_nce": info_nce(image_BD, text_BD, logit_scale)}
        total = terms["info_nce"]
        if self.queue is not None and concepts_BM is not None:
            terms["concept"] = self._concept_loss(self.queue, image_BD, text_BD, concepts_BM)
            total = total + self.weight * terms["concept"]
        if taught is not None:
            terms["distill"] = distillation(image_BD, text_BD, logit_scale, taught, self.distill_form)
            total = total + self.distill_weight * terms["distill"]
        return {"loss": total, **terms}

    def _concept_loss(
        self, queue: FeatureQueue, image_BD: torch.Tensor, text_BD: torch.Tensor, concepts_BM: torch.Tensor
    ) -> torch.Tensor:
        queue.push(image_BD, text_BD, concepts_BM)
        known_C = queue.is_known()
        targets_BC = concept_targets(concepts_BM, self.idf, known_C)[:, known_C]
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        return concept_matching(image_BD, text_BD, *queue.means(), queue.prototypes()[known_C], targets_BC, scale)


def label_concepts(pairs: PairInput, stage: StageConfig) -> tuple[Vocabulary | None, Labels | None]:
    """Mine the concepts of the train captions and label each pair with those that it names."""
    if stage.concept_weight == 0:
        return None, None
    captions = pairs.index.captions()
    vocabulary = mine_concepts(captions, stage.min_concept_count)
    if not len(vocabulary):
        raise DataError(
            f"no concept is named by {stage.min_concept_count} train captions; "
            "lower min_concept_count or set concept_weight to 0"
        )
    return vocabulary, vocabulary.label(captions)
