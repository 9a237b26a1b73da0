"""Zero-shot classification: which label's prompt lies nearest to an image.

A label's classifier is the normalised mean of the embeddings of its prompts, one for a single
template or an ensemble. Ties count against the model. 10,000 images in 50 labels take about half a
second, their bootstrap included.

Shapes: C images, L labels, T templates, D dimensions.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.evaluation.figures import Figure, figures_of
from model.evaluation.retrieval import Ints
from model.evaluation.similarity import exact_product


@dataclass(frozen=True)
class Classified:
    """What a column's labels are taken for.

    ``confusion`` [L, L] counts images by their label (rows) and the label that they are given
    (columns), labels in the order of ``labels``, the most frequent first; a label that no image has
    is there because others have it. ``macro`` is the mean of the labels' own accuracies.
    """

    labels: tuple[str, ...]
    accuracy: Figure
    macro: float
    confusion: Ints

    @property
    def largest(self) -> float:
        """Accuracy of giving every image the most frequent label."""
        return float(self.confusion.sum(axis=1).max() / self.confusion.sum())

    @property
    def baselines(self) -> dict[str, float]:
        """Accuracies of always saying the most frequent label."""
        asked = int((self.confusion.sum(axis=1) > 0).sum())
        return {"accuracy": self.largest, "macro_accuracy": 1 / asked}


def labels_of(label_C: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """Return the distinct labels, the most frequent first, equals by name; then the other known."""
    names, counts = np.unique([label for label in label_C if label], return_counts=True)
    found = [str(names[place]) for place in np.lexsort((names, -counts))]
    return found + sorted(set(known) - {*found, ""})


def prompt_embeddings(
    labels: Sequence[str], templates: Sequence[str], embed: Callable[[list[str]], torch.Tensor]
) -> torch.Tensor:
    """Return a classifier a label, L2-normalised [L, D].

    ``{label}`` in a template is the label in lower case.
    """
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
    """Give each image the nearest label and count; images without a label are left out.

    ``groups`` [C] says which product an image belongs to; the accuracy's interval resamples those.
    """
    number = {label: place for place, label in enumerate(labels)}
    rows = np.array([row for row, label in enumerate(label_C) if label in number])
    truth = np.array([number[label_C[row]] for row in rows])
    similarity = exact_product(image_CD[torch.from_numpy(rows)], label_LD).numpy()

    # The true label wins only where it is ahead of all others.
    every = np.arange(len(rows))
    own = similarity[every, truth].copy()
    similarity[every, truth] = -np.inf
    is_right = own > similarity.max(axis=1)
    given = np.where(is_right, truth, similarity.argmax(axis=1))

    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth, given), 1)
    is_asked = confusion.sum(axis=1) > 0
    hits = {"accuracy": is_right.astype(np.float64)}
    return Classified(
        labels=tuple(labels),
        accuracy=figures_of(hits, groups[rows], draws, seed)["accuracy"],
        macro=float((np.diag(confusion)[is_asked] / confusion.sum(axis=1)[is_asked]).mean()),
        confusion=confusion,
    )
