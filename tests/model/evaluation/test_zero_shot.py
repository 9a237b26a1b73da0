"""Zero-shot classification: counts against a slow twin, ensembles, ties."""

import numpy as np
import pytest
import torch

from model.evaluation.zero_shot import classify, labels_of, prompt_embeddings
from tests.model.evaluation.test_retrieval import embeddings


def test_accuracy_macro_accuracy_and_confusion_are_those_of_the_slow_twin() -> None:
    rng = np.random.default_rng(0)
    truth = [str(label) for label in rng.choice(["a", "b", "c", ""], 90, p=[0.6, 0.2, 0.1, 0.1])]
    images, labels = embeddings(90, 0), labels_of(truth)
    classifier = embeddings(3, 1)
    found = classify(images, classifier, labels, truth, np.arange(90), 200, seed=0)
    confusion = np.zeros((3, 3), int)
    for image, label in zip(images.double(), truth, strict=True):
        if label:
            confusion[labels.index(label), int((classifier.double() @ image).argmax())] += 1
    assert found.labels == ("a", "b", "c")
    assert np.array_equal(found.confusion, confusion)
    assert found.accuracy.value == pytest.approx(np.trace(confusion) / confusion.sum())
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high
    assert found.macro == pytest.approx(
        np.mean([confusion[n, n] / confusion[n].sum() for n in range(3)])
    )
    assert found.largest == pytest.approx(confusion[0].sum() / confusion.sum())


def test_a_tie_counts_against_the_model() -> None:
    found = classify(
        torch.ones(2, 4), torch.ones(2, 4), ["a", "b"], ["a", "b"], np.arange(2), 100, seed=0
    )
    assert found.accuracy.value == 0 and found.confusion.tolist() == [[0, 1], [1, 0]]


def test_an_ensemble_is_the_mean_of_its_prompts_and_labels_are_said_in_lower_case() -> None:
    said: list[str] = []

    def embed(prompts: list[str]) -> torch.Tensor:
        said.extend(prompts)
        return embeddings(len(prompts), 3)

    classifier = prompt_embeddings(
        ["Shoes", "T-Shirts"], ["A photo of a {label}.", "{label}"], embed
    )
    assert said == ["A photo of a shoes.", "shoes", "A photo of a t-shirts.", "t-shirts"]
    four = embeddings(4, 3)
    assert torch.allclose(classifier[1], torch.nn.functional.normalize(four[2] + four[3], dim=0))


def test_labels_come_by_frequency_then_by_name_and_an_empty_one_is_none() -> None:
    assert labels_of(["b", "", "a", "c", "c"]) == ["c", "a", "b"]
    assert labels_of(["b", "b", "a"], {"d", "a", "", "c"}) == ["b", "a", "c", "d"]


def test_labels_of_train_can_be_given_and_count_in_no_mean() -> None:
    images = torch.eye(3)
    found = classify(
        images, torch.eye(3)[[0, 2, 1]], ["a", "b", "c"], ["a", "a", "b"], np.arange(3), 100, 0
    )
    assert found.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert found.macro == pytest.approx(0.75)
    assert found.baselines == {"accuracy": pytest.approx(2 / 3), "macro_accuracy": 0.5}


def test_a_single_label_is_always_right() -> None:
    found = classify(
        embeddings(3, 0), embeddings(1, 1), ["a"], ["a", "a", ""], np.arange(3), 100, seed=0
    )
    assert found.accuracy.value == found.macro == found.largest == 1
