"""Prototypes of concepts, held in a feature queue.

A concept's prototype is the normalised mean of the queued image and text embeddings of the pairs
that name it, each less the mean of its modality. The queue keeps running sums, so a step costs
O(batch · concepts a caption · D) whatever the queue's length.

Shapes: B pairs, C concepts, D embedding width, Q queue rows, M most concepts a caption (padded with
-1).
"""

import torch
from torch.nn import Buffer
from torch.nn.functional import normalize

from model.concepts.mining import MAX_CONCEPTS_A_CAPTION


class FeatureQueue(torch.nn.Module):
    """The latest Q pairs' embeddings as a ring buffer, with the running sums that prototypes are
    made of.

    Everything lives in buffers, so ``state_dict`` is the whole state.
    """

    def __init__(self, size: int, concepts: int, width: int) -> None:
        """Make an empty queue of ``size`` rows for C concepts and embeddings of width D."""
        super().__init__()
        self.features = Buffer(torch.zeros(2, size, width))
        self.concepts = Buffer(torch.full((size, MAX_CONCEPTS_A_CAPTION), -1))
        self.captions = Buffer(torch.zeros(size, dtype=torch.int64))
        self.sums = Buffer(torch.zeros(2, concepts, width))
        self.members = Buffer(torch.zeros(concepts))
        self.total = Buffer(torch.zeros(2, width))
        self.filled = Buffer(torch.zeros((), dtype=torch.int64))
        self.cursor = Buffer(torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(
        self,
        image_BD: torch.Tensor,
        text_BD: torch.Tensor,
        concepts_BM: torch.Tensor,
        captions_B: torch.Tensor,
    ) -> None:
        """Put a batch in place of the oldest rows; ``captions_B``, int64, identifies captions."""
        size = self.features.shape[1]
        new = torch.stack([image_BD.detach().float(), text_BD.detach().float()])[:, -size:]
        concepts_BM, captions_B = concepts_BM[-size:], captions_B[-size:]

        # The rows that go leave the sums, the new ones enter them.
        rows = (self.cursor + torch.arange(new.shape[1], device=new.device)) % size
        self._account(self.features[:, rows], self.concepts[rows], sign=-1)
        self.features[:, rows] = new
        self.concepts[rows], self.captions[rows] = concepts_BM, captions_B
        self._account(new, concepts_BM, sign=1)

        self.cursor.copy_((self.cursor + len(rows)) % size)
        self.filled.copy_((self.filled + len(rows)).clamp(max=size))

    def _account(self, features: torch.Tensor, concepts_BM: torch.Tensor, sign: int) -> None:
        row, slot = torch.nonzero(concepts_BM >= 0, as_tuple=True)
        named = concepts_BM[row, slot]
        self.members.index_add_(0, named, torch.full_like(named, sign, dtype=torch.float32))
        self.sums.index_add_(1, named, sign * features[:, row])
        self.total.add_(sign * features.sum(dim=1))

    @torch.no_grad()
    def nearest_texts(self, text_BD: torch.Tensor, captions_B: torch.Tensor) -> torch.Tensor:
        """Find each text's nearest one in the queue, of another caption [B, D]; itself without one.

        Called before the batch is pushed. Comparing with 65,536 rows takes under 1 % of a ViT-B-32
        step.
        """
        own_BD = text_BD.detach().float()
        is_empty_Q = torch.arange(self.features.shape[1], device=text_BD.device) >= self.filled
        is_barred_BQ = (captions_B[:, None] == self.captions) | is_empty_Q
        similarity_BQ = (own_BD @ self.features[1].T).masked_fill(is_barred_BQ, -torch.inf)

        best_B, row_B = similarity_BQ.max(dim=1)
        return torch.where(best_B[:, None].isfinite(), self.features[1, row_B], own_BD)

    @torch.no_grad()
    def rebuild(self) -> None:
        """Recompute the running sums from the rows, which takes off what rounding has added."""
        for buffer in (self.sums, self.members, self.total):
            buffer.zero_()
        self._account(self.features, self.concepts, sign=1)

    def means(self) -> torch.Tensor:
        """Compute the mean image and text embedding of the queue, [2, D]."""
        return self.total / self.filled.clamp(min=1)

    def prototypes(self) -> torch.Tensor:
        """Compute each concept's prototype, L2-normalised [C, D]; zeros where it is not known."""
        sides = self.sums / self.members.clamp(min=1)[None, :, None] - self.means()[:, None, :]
        prototypes = normalize(normalize(sides[0], dim=1) + normalize(sides[1], dim=1), dim=1)
        return prototypes * self.is_known()[:, None]

    def is_known(self) -> torch.Tensor:
        """Mark the concepts that have a prototype, bool [C].

        At least two queued pairs name them, and not all do: what all name lies at the mean itself,
        so only rounding would give it a direction.
        """
        return (self.members > 1.5) & (self.members < self.filled)


def concept_targets(
    concepts_BM: torch.Tensor, idf_C: torch.Tensor, is_known_C: torch.Tensor
) -> torch.Tensor:
    """Weigh each pair's known concepts in proportion to idf, summing to 1, float32 [B, C]."""
    weights = torch.zeros(len(concepts_BM), len(idf_C), device=idf_C.device)
    row, slot = torch.nonzero(concepts_BM >= 0, as_tuple=True)
    named = concepts_BM[row, slot]
    weights[row, named] = (idf_C * is_known_C)[named]
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
