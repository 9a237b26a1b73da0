"""The training losses: pure functions of tensors, each a scalar in float32.

Shapes: B pairs of the batch, L of them this process's own, C concepts, D embedding width.
Embeddings come in L2-normalised.
"""

import math

import torch
from torch.nn.functional import cross_entropy, softplus

MAX_LOG_SCALE = math.log(100)


def info_nce(
    image_LD: torch.Tensor,
    text_LD: torch.Tensor,
    logit_scale: torch.Tensor,
    all_image_BD: torch.Tensor | None = None,
    all_text_BD: torch.Tensor | None = None,
    is_duplicate_LB: torch.Tensor | None = None,
    first: int = 0,
) -> torch.Tensor:
    """Compute the symmetric InfoNCE loss of L pairs, each among the B of the whole batch.

    The L pairs are the whole batch, or with ``all_image_BD`` and ``all_text_BD`` the part of it
    that begins at row ``first``: the mean over equal parts is then the loss of the whole.
    ``logit_scale`` is the factor itself, not its logarithm. What ``is_duplicate_LB`` marks
    (`find_duplicates`) is no negative: it is left out of the denominators.

    Source: Radford et al. 2021, Learning Transferable Visual Models From Natural Language
    Supervision, figure 3.
    """
    from_image_LB = logit_scale * image_LD @ (text_LD if all_text_BD is None else all_text_BD).T
    from_text_LB = (
        from_image_LB.T
        if all_image_BD is None or all_image_BD is image_LD
        else logit_scale * text_LD @ all_image_BD.T
    )
    if is_duplicate_LB is not None:
        from_image_LB = from_image_LB.masked_fill(is_duplicate_LB, -math.inf)
        from_text_LB = from_text_LB.masked_fill(is_duplicate_LB, -math.inf)

    target_L = torch.arange(first, first + len(image_LD), device=image_LD.device)
    return (cross_entropy(from_image_LB, target_L) + cross_entropy(from_text_LB, target_L)) / 2


def sigmoid_matching(
    image_LD: torch.Tensor,
    text_LD: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    all_text_BD: torch.Tensor | None = None,
    is_duplicate_LB: torch.Tensor | None = None,
    first: int = 0,
) -> torch.Tensor:
    """Compute SigLIP's loss: each of L images accepts its own text and rejects the others.

    Every image and text is a question of its own, answered by the sigmoid of ``logit_scale`` times
    their cosine plus ``logit_bias``; a pair's questions are summed. The L pairs are the whole batch
    or a part of it, as for `info_nce`; what ``is_duplicate_LB`` marks is no question.

    Source: Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training, algorithm 1.
    """
    texts_BD = text_LD if all_text_BD is None else all_text_BD
    logits_LB = logit_scale * image_LD @ texts_BD.T + logit_bias
    sign_LB = -torch.ones_like(logits_LB)
    sign_LB.diagonal(first).fill_(1)

    loss_LB = softplus(-sign_LB * logits_LB)
    if is_duplicate_LB is not None:
        loss_LB = loss_LB.masked_fill(is_duplicate_LB, 0)
    return loss_LB.sum() / len(image_LD)


def find_duplicates(ids_L2: torch.Tensor, all_ids_B2: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Mark the pairs of the batch that share a caption or an image with each of L, bool [L, B].

    The L pairs are the rows of the batch from ``first`` on; no pair is a duplicate of itself.
    """
    is_same_LB = ids_L2[:, None, 0] == all_ids_B2[None, :, 0]
    is_same_LB |= ids_L2[:, None, 1] == all_ids_B2[None, :, 1]
    is_same_LB.diagonal(first).fill_(False)
    return is_same_LB


def concept_matching(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    image_mean_D: torch.Tensor,
    text_mean_D: torch.Tensor,
    prototypes_CD: torch.Tensor,
    target_BC: torch.Tensor,
    concept_scale: torch.Tensor,
) -> torch.Tensor:
    """Compute how badly embeddings pick the prototypes of the concepts that their caption names.

    The logits are ``concept_scale`` times the embedding, less the feature queue's mean of its own
    modality, against each prototype. ``target_BC`` holds each pair's weights of its concepts,
    summing to 1, or a row of zeros for a caption that names none; such rows do not count.
    """
    logits_BC = [
        concept_scale * (side_BD - mean_D) @ prototypes_CD.T
        for side_BD, mean_D in ((image_BD, image_mean_D), (text_BD, text_mean_D))
    ]
    # Cross entropies against distributions; a row of zeros adds nothing.
    image, text = (-(target_BC * each_BC.log_softmax(dim=1)).sum() for each_BC in logits_BC)
    named_B = target_BC.sum(dim=1) > 0
    return (image + text) / 2 / named_B.sum().clamp(min=1)


def embedding_distance(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    teacher_image_BD: torch.Tensor,
    teacher_text_BD: torch.Tensor,
) -> torch.Tensor:
    """Compute the mean of 1 - cosine between each embedding and the teacher's of the same thing."""
    cosines_B = (image_BD * teacher_image_BD).sum(dim=1) + (text_BD * teacher_text_BD).sum(dim=1)
    return 1 - cosines_B.mean() / 2
