"""An image as a tensor has the pixels and the faults of `model.pairs.images`."""

import numpy as np
import torch

from model.batches.crops import decode_image
from model.errors import FaultReason
from model.pairs.images import decode_rgb
from tests.golden import encoded, jpeg, jpeg_claiming, oriented_jpeg, picture


def test_a_tensor_has_the_pixels_that_were_decoded_with_the_channels_first() -> None:
    for data in (jpeg(75, 61), oriented_jpeg(6), encoded(picture().convert("RGBA"), "PNG")):
        image, pixels = decode_image(data), decode_rgb(data)
        assert isinstance(image, torch.Tensor) and isinstance(pixels, np.ndarray)
        assert image.dtype == torch.uint8
        assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1))


def test_a_fault_is_passed_on() -> None:
    assert decode_image(jpeg()[:-2]) is FaultReason.TRUNCATED_IMAGE
    assert decode_image(jpeg_claiming(9_000, 9_000)) is FaultReason.TOO_MANY_PIXELS
    assert decode_image(jpeg(40, 32), max_pixels=1279) is FaultReason.TOO_MANY_PIXELS
