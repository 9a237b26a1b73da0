"""Foreign images as small pictures: decoded and encoded anew, so that no foreign byte gets in."""

from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from model.errors import FaultReason
from model.pairs.images import decode_rgb

THUMBNAIL_SIDE = 224  # twice what a page shows, for dense screens
JPEG_QUALITY = 82


def thumbnail(image: bytes) -> Image.Image:
    """Decode an image to RGB, at most 224 pixels a side, transparency on white.

    One that cannot be decoded becomes a grey tile that says so.
    """
    decoded = decode_rgb(image)
    if isinstance(decoded, FaultReason):
        tile = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "#c9ccd1")
        centre, font = (THUMBNAIL_SIDE // 2, THUMBNAIL_SIDE // 2), ImageFont.load_default(24)
        ImageDraw.Draw(tile).text(centre, "no image", "#50555c", font, anchor="mm")
        return tile

    small = Image.fromarray(decoded)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return small


def thumbnail_jpeg(image: bytes) -> bytes:
    """Encode the thumbnail of an image as a JPEG of about 5 KB."""
    file = BytesIO()
    thumbnail(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
