"""Encoded images become the towers' input: RGB uint8 tensors, cut and resized without leaving
uint8.

Every image is [3, H, W], RGB, uint8, upright; a decoded one lies channels-last in memory, which the
resize likes best. A 224-pixel JPEG takes about 0.2 ms to decode and 0.1 ms to crop on one core.
Normalisation happens later, in the model's dtype on its device.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from model.errors import FaultReason
from model.pairs.images import MAX_PIXELS, decode_rgb


class Resizing(NamedTuple):
    """How a model wants images: squashed to a square, or their centre cut; and the filter."""

    is_squashed: bool = False
    interpolation: str = "bicubic"  # or bilinear


CLIP_RESIZING = Resizing()


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> torch.Tensor | FaultReason:
    """Decode to a uint8 tensor [3, H, W] by `model.pairs.images.decode_rgb`, or name the fault."""
    pixels = decode_rgb(data, max_pixels)
    return pixels if isinstance(pixels, FaultReason) else torch.from_numpy(pixels).permute(2, 0, 1)


def centre_crop(image: torch.Tensor, side: int, resizing: Resizing = CLIP_RESIZING) -> torch.Tensor:
    """Return the centre [3, side, side] of a uint8 image whose shorter side is resized to ``side``.

    Where the model squashes images, it is all of the image. At most 2 levels of 255 from
    open_clip's evaluation transform before normalisation.
    """
    if resizing.is_squashed:
        return _in_one_block(_resize(image, side, side, resizing.interpolation))
    height, width = image.shape[1:]
    new_height, new_width = (int(side * length / min(height, width)) for length in (height, width))
    top, left = round((new_height - side) / 2), round((new_width - side) / 2)
    if max(height, width) <= 8 * min(height, width):
        resized = _resize(image, new_height, new_width, resizing.interpolation)
        return _in_one_block(resized[:, top : top + side, left : left + side])

    # A long, thin image is cut without its resized whole, which could take hundreds of megabytes.
    # Columns first and rows second, as for the whole: the rounding between the two passes shows at
    # hard edges.
    strip = Image.fromarray(image.permute(1, 2, 0).numpy(force=True))
    resample = Image.Resampling[resizing.interpolation.upper()]
    x, y = width / new_width, height / new_height
    strip = strip.resize((side, height), resample, box=(left * x, 0, (left + side) * x, height))
    strip = strip.resize((side, side), resample, box=(0, top * y, side, (top + side) * y))
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1).contiguous()


def random_crop(
    image: torch.Tensor,
    side: int,
    min_scale: float,
    flip: bool,
    generator: torch.Generator,
    resizing: Resizing = CLIP_RESIZING,
) -> torch.Tensor:
    """Return a random resized crop [3, side, side] of a uint8 image.

    It is a pure function of the generator's state. The area is uniform in [``min_scale``, 1] of the
    image's, the aspect log-uniform in [3/4, 4/3]; ``min_scale`` 1 is the centre crop. With
    ``flip``, half the crops are mirrored. Every call draws 24 numbers, whatever it does.
    """
    draws = torch.rand(24, generator=generator).tolist()
    if min_scale >= 1:
        cropped = centre_crop(image, side, resizing)
    else:
        top, left, height, width = _random_box(image.shape[1], image.shape[2], min_scale, draws)
        cut = image[:, top : top + height, left : left + width]
        cropped = _resize(cut, side, side, resizing.interpolation)

    return _in_one_block(cropped.flip(2) if flip and draws[23] < 0.5 else cropped)


def _resize(image: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    """Return a uint8 image [3, height, width] by Pillow's filter, channels-last in memory."""
    if image.shape[1:] == (height, width):
        return image
    # The outer stride of a batch of one, which torchvision leaves undefined, tells torch to write
    # its result channels-last as well: the same pixels in 60 % of the time.
    batch = _in_one_block(image.permute(1, 2, 0))[None].permute(0, 3, 1, 2)
    return interpolate(batch, (height, width), mode=interpolation, antialias=True)[0]


def _in_one_block(image: torch.Tensor) -> torch.Tensor:
    """Copy where need be, by numpy: torch would share so small a copy among all cores.

    Waiting for cores that train costs up to 20 times the copy, and takes them from the training
    (DECISIONS 18).
    """
    return torch.from_numpy(np.ascontiguousarray(image.numpy()))


def _random_box(
    height: int, width: int, min_scale: float, draws: list[float]
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box in an image of that size.

    The first of ten drawn boxes that fits, else the largest centred one of allowed aspect.
    """
    for area_draw, aspect_draw in zip(draws[:10], draws[10:20], strict=True):
        area = height * width * (min_scale + (1 - min_scale) * area_draw)
        aspect = (4 / 3) ** (2 * aspect_draw - 1)
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(draws[20] * (height - crop_height + 1))
            left = int(draws[21] * (width - crop_width + 1))
            return top, left, crop_height, crop_width

    crop_height = min(height, max(1, round(width * 4 / 3)))
    crop_width = min(width, max(1, round(height * 4 / 3)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
