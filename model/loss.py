"""The training losses: pure functions of tensors, each a scalar in float32.

Shapes: B pairs of the batch, C concepts, D embedding width. Embeddings come in L2-normalised.
"""

import math

import torch
from torch.nn.functional import cross_entropy, kl_div

MAX_LOG_SCALE = math.log(100)


def info_nce(image_BD: torch.Tensor, text_BD: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Return the symmetric InfoNCE loss of B pairs; ``logit_scale`` is the factor itself, not its logarithm.

    Source: Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, figure 3.
    """
    logits_BB = logit_scale * image_BD @ text_BD.T
    target_B = torch.arange(len(image_BD), device=image_BD.device)
    return (cross_entropy(logits_BB, target_B) + cross_entropy(logits_BB.T, target_B)) / 2


def concept_matching(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    image_mean_D: torch.Tensor,
    text_mean_D: torch.Tensor,
    prototypes_CD: torch.Tensor,
    target_BC: torch.Tensor,
    concept_scale: torch.Tensor,
) -> torch.Tensor:
    """Return how badly embeddings pick the prototypes of the concepts that their caption names.

    The logits are ``concept_scale`` times the embedding, less the feature queue's mean of its own modality, against
    each prototype. ``target_BC`` holds each pair's weights of its concepts, summing to 1, or a row of zeros for a
    caption that names none; such rows do not count.
    """
    named_B = target_BC.sum(dim=1) > 0
    if not bool(named_B.any()):
        return image_BD.sum() * 0
    image_loss = _soft_cross_entropy(concept_scale * (image_BD - image_mean_D) @ prototypes_CD.T, target_BC)
    text_loss = _soft_cross_entropy(concept_scale * (text_BD - text_mean_D) @ prototypes_CD.T, target_BC)
    return (image_loss + text_loss) / 2 / named_B.sum()


def _soft_cross_entropy(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
    """Return the summed cross entropy against target distributions; a row of zeros adds nothing."""
    return -(target_BC * logits_BC.log_softmax(dim=1)).sum()


def embedding_distance(
    image_BD: torch.Tensor, text_BD: torch.Tensor, teacher_image_BD: torch.Tensor, teacher_text_BD: torch.Tensor
) -> torch.Tensor:
    """Return 1 - cosine between each embedding and the teacher's of the same image or text, the mean of both."""
    cosines_B = (image_BD * teacher_image_BD).sum(dim=1) + (text_BD * teacher_text_BD).sum(dim=1)
    return 1 - cosines_B.mean() / 2


def similarity_divergence(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    teacher_image_BD: torch.Tensor,
    teacher_text_BD: torch.Tensor,
    teacher_scale: torch.Tensor,
) -> torch.Tensor:
    """Return KL(teacher || student) of a caption's choice among the batch's images and the reverse, the mean of both.

    Each side softmaxes its similarities by its own scale, so a student that equals its teacher has divergence 0.

    Source: Yang et al. 2024, CLIP-KD: An Empirical Study of CLIP Model Distillation, contrastive relational form.
    """
    logits_BB = logit_scale * image_BD @ text_BD.T
    teacher_BB = teacher_scale * teacher_image_BD @ teacher_text_BD.T
    return (_divergence(logits_BB, teacher_BB) + _divergence(logits_BB.T, teacher_BB.T)) / 2


def _divergence(logits_BC: torch.Tensor, teacher_BC: torch.Tensor) -> torch.Tensor:
    return kl_div(logits_BC.log_softmax(dim=1), teacher_BC.log_softmax(dim=1), reduction="batchmean", log_target=True)
