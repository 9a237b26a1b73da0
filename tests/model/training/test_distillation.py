"""The distances from a teacher against slow twins in float64: values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from model.batches.loading import Batch
from model.towers.towers import Towers, encode_images, encode_tokens
from model.training.distillation import Teacher
from model.training.losses import embedding_distance, similarity_divergence

SIZES = [(1, 2), (2, 3), (13, 7)]


def unit_rows(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def slow_distance(
    image: Tensor, text: Tensor, scale: Tensor, t_image: Tensor, t_text: Tensor
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(image)):
        for student, teacher in ((image[row], t_image[row]), (text[row], t_text[row])):
            total = total + 1 - student.dot(teacher) / (student.norm() * teacher.norm()).detach()
    return total / (2 * len(image))


def slow_divergence(
    image: Tensor, text: Tensor, scale: Tensor, t_image: Tensor, t_text: Tensor
) -> Tensor:
    total, size = torch.zeros((), dtype=torch.float64), len(image)
    for (query, other), (t_query, t_other) in (
        ((image, text), (t_image, t_text)),
        ((text, image), (t_text, t_image)),
    ):
        for row in range(size):
            student = torch.stack(
                [(scale * query[row].dot(other[column])).exp() for column in range(size)]
            )
            teacher = torch.stack(
                [(20 * t_query[row].dot(t_other[column])).exp() for column in range(size)]
            )
            p, q = teacher / teacher.sum(), student / student.sum()
            total = total + sum(p[column] * (p[column] / q[column]).log() for column in range(size))
    return total / (2 * size)


def fast_distance(
    image: Tensor, text: Tensor, scale: Tensor, t_image: Tensor, t_text: Tensor
) -> Tensor:
    return embedding_distance(image, text, t_image, t_text)


def fast_divergence(
    image: Tensor, text: Tensor, scale: Tensor, t_image: Tensor, t_text: Tensor
) -> Tensor:
    return similarity_divergence(image, text, scale, t_image, t_text, scale.new_tensor(20))


Form = Callable[..., Tensor]
FORMS = [(fast_distance, slow_distance), (fast_divergence, slow_divergence)]


@pytest.mark.parametrize(("rows", "width"), SIZES)
@pytest.mark.parametrize(("fast", "slow"), FORMS, ids=["embedding", "similarity"])
def test_each_form_equals_its_slow_twin_in_value_and_gradient(
    fast: Form, slow: Form, rows: int, width: int
) -> None:
    image, text = (
        unit_rows(rows, width, 1).requires_grad_(),
        unit_rows(rows, width, 2).requires_grad_(),
    )
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    teacher = unit_rows(rows, width, 3), unit_rows(rows, width, 4)
    expected = slow(image, text, scale, *teacher)
    gradients = torch.autograd.grad(expected, [image, text, scale], allow_unused=True)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        arguments = [value.detach().to(dtype).requires_grad_() for value in (image, text, scale)]
        loss = fast(*arguments, *(value.to(dtype) for value in teacher))
        torch.testing.assert_close(loss.double(), expected.detach(), rtol=tolerance, atol=tolerance)
        for own, twin in zip(
            torch.autograd.grad(loss, arguments, allow_unused=True), gradients, strict=True
        ):
            assert (own is None) == (twin is None)
            if own is not None and twin is not None:
                torch.testing.assert_close(own.double(), twin, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("fast", [fast_distance, fast_divergence])
def test_a_student_that_equals_its_teacher_has_no_distance_and_any_other_has(fast: Form) -> None:
    image, text, other = unit_rows(5, 4, 1), unit_rows(5, 4, 2), unit_rows(5, 4, 3)
    scale = torch.tensor(20.0, dtype=torch.float64)
    assert float(fast(image, text, scale, image, text)) == pytest.approx(0, abs=1e-12)
    assert float(fast(other, text, scale, image, text)) > 0.01


def test_the_teacher_stays_as_it_was_and_gives_no_gradient(towers: Towers) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    tokens = towers.tokenizer(["red shirt", "blue bag", "a shoe"])
    towers.clip.train()
    teacher, batch = (
        Teacher(towers),
        Batch(*([None] * len(Batch._fields)))._replace(images=images, tokens=tokens),
    )
    before = encode_images(towers, images).detach(), encode_tokens(towers, tokens).detach()
    with torch.no_grad():
        for parameter in towers.clip.parameters():
            parameter.mul_(0.5)
    taught = teacher(batch)
    torch.testing.assert_close(taught[:2], before)
    assert not taught.image.requires_grad and not taught.logit_scale.requires_grad
    assert towers.clip.training and all(
        parameter.requires_grad for parameter in towers.clip.parameters()
    )
