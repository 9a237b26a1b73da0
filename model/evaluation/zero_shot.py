"""Zero-shot classification: which label's prompt lies nearest to a picture.

A label's classifier is the normalised mean of the embeddings of its prompts, one for a single
template or an ensemble. Ties count against the model.

Shapes: C images, L labels, T templates, D dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.evaluation.figures import Figure, Floats, Ints, figures_of


@dataclass(frozen=True)
class Classified:
    """What a column's labels are taken for.

    ``confusion`` [L, L] counts pictures by their label (rows) and the label that they are given
    (columns), labels in the order of ``labels``, the most frequent first. ``macro`` is the mean of
    the labels' own accuracies.
    """

    labels: tuple[str, ...]
    accuracy: Figure
    macro: float
    confusion: Ints

    @property
    def largest(self) -> float:
        """The accuracy of always saying the most frequent label."""
        return float(self.confusion.sum(axis=1).max() / self.confusion.sum())


def prompt_embeddings(
    labels: Sequence[str], templates: Sequence[str], embed: Callable[[list[str]], torch.Tensor]
) -> torch.Tensor:
    """Return a classifier a label, L2-normalised [L, D]; ``{label}`` in a template is the label in lower case."""
    prompts = [
        template.replace("{label}", label.lower()) for label in labels for template in templates
    ]
    embedded = embed(prompts).reshape(len(labels), len(templates), -1)
    return torch.nn.functional.normalize(embedded.mean(dim=1), dim=1)


def classify(
    image_CD: torch.Tensor,
    label_LD: torch.Tensor,
    labels: Sequence[str],
    label_C: Sequence[str],
    groups: Ints,
    draws: int,
    seed: int,
) -> Classified:
    """Give each picture the nearest label and count; pictures without a label are left out.

    ``groups`` [C] says which product a picture belongs to; the accuracy's interval resamples those.
    """
    number = {label: place for place, label in enumerate(labels)}
    rows = np.array([row for row, label in enumerate(label_C) if label in number])
    truth = np.array([number[label_C[row]] for row in rows])
    similarity = (image_CD[torch.from_numpy(rows)].double() @ label_LD.double().T).float().numpy()
    own = similarity[np.arange(len(rows)), truth].copy()
    similarity[np.arange(len(rows)), truth] = -np.inf
    rival = similarity.argmax(axis=1)
    is_right = own > similarity.max(axis=1)
    given = np.where(is_right, truth, rival)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth, given), 1)
    hits: Floats = is_right.astype(np.float64)
    accuracy = figures_of({"accuracy": hits}, groups[rows], draws, seed)["accuracy"]
    macro = float((np.diag(confusion) / confusion.sum(axis=1)).mean())
    return Classified(tuple(labels), accuracy, macro, confusion)


def labels_of(label_C: Sequence[str]) -> list[str]:
    """Return the distinct labels, the most frequent first, equals by name."""
    names, counts = np.unique([label for label in label_C if label], return_counts=True)
    return [str(names[place]) for place in np.lexsort((names, -counts))]
