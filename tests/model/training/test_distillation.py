"""The distance from a teacher against a slow twin in float64: values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from model.batches.loading import Batch
from model.towers.towers import Towers, encode_images, encode_tokens
from model.training.distillation import Teacher
from model.training.losses import embedding_distance

SIZES = [(1, 2), (2, 3), (13, 7)]


def unit_rows(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def slow_distance(image: Tensor, text: Tensor, t_image: Tensor, t_text: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(image)):
        for student, teacher in ((image[row], t_image[row]), (text[row], t_text[row])):
            total = total + 1 - student.dot(teacher) / (student.norm() * teacher.norm()).detach()
    return total / (2 * len(image))


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_the_distance_equals_its_slow_twin_in_value_and_gradient(rows: int, width: int) -> None:
    image = unit_rows(rows, width, 1).requires_grad_()
    text = unit_rows(rows, width, 2).requires_grad_()
    teacher = unit_rows(rows, width, 3), unit_rows(rows, width, 4)
    expected = slow_distance(image, text, *teacher)
    gradients = torch.autograd.grad(expected, [image, text])

    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        arguments = [value.detach().to(dtype).requires_grad_() for value in (image, text)]
        loss = embedding_distance(*arguments, *(value.to(dtype) for value in teacher))
        torch.testing.assert_close(loss.double(), expected.detach(), rtol=tolerance, atol=tolerance)
        for own, twin in zip(torch.autograd.grad(loss, arguments), gradients, strict=True):
            torch.testing.assert_close(own.double(), twin, rtol=tolerance, atol=tolerance)


def test_a_student_that_equals_its_teacher_has_no_distance_and_any_other_has() -> None:
    image, text, other = unit_rows(5, 4, 1), unit_rows(5, 4, 2), unit_rows(5, 4, 3)
    assert float(embedding_distance(image, text, image, text)) == pytest.approx(0, abs=1e-12)
    assert float(embedding_distance(other, text, image, text)) > 0.01


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
    torch.testing.assert_close(taught, before)
    assert not any(each.requires_grad for each in taught)
    assert towers.clip.training and all(
        parameter.requires_grad for parameter in towers.clip.parameters()
    )
