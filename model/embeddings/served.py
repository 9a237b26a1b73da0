"""The towers without torch: a folder of data files in, embeddings out.

This file imports nothing of the project, so that it travels with a registered version and runs
where only onnxruntime, tokenizers, Pillow and numpy are (ftfy for CLIP's byte pairs). The folder
holds ``served.json``, ``text.onnx``, ``image.onnx``, ``tokenizer.json`` and a manifest with their
SHA-256; nothing in it is run as code. Opening ViT-B-32 takes about 2 s of a core, a title 8 to 20
ms (`benchmarks/serve.py`).

Shapes: N captions or images, L tokens of the longest caption of a part, D embedding width.
"""

import hashlib
import html
import io
import json
import os
import string
import struct
import zlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

# It reports to its maker, and keeps a database in HOME, unless this stands before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

SETTINGS_FILE, TOKENIZER_FILE = "served.json", "tokenizer.json"
EMBEDDER_FILE = "embedder.py"  # this file, beside the data of a registered version
TEXT_MODEL, IMAGE_MODEL, SEAL = "text.onnx", "image.onnx", "manifest.json"
FORMAT = 1
CAPTIONS_AT_ONCE, IMAGES_AT_ONCE = 64, 16
HASH_BLOCK = 1 << 20
THREADS = "OMP_NUM_THREADS"

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MOST_PIXELS, LONGEST_SIDE = 25_000_000, 16_384
LONG_AND_THIN = 8  # sides of such a ratio are cut before they are resized
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's parsers let through on damaged bytes.
UNREADABLE_IMAGE = (
    Image.DecompressionBombError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

Embeddings = npt.NDArray[np.float32]
Image8 = npt.NDArray[np.uint8]


class ServedTowers:
    """An image tower and a text tower of a served folder; threads may share one."""

    def __init__(self, folder: Path | str, threads: int | None = None) -> None:
        """Open the folder after checking the SHA-256 of its files.

        ``threads`` compute one call; by default OMP_NUM_THREADS says how many, else all cores.

        Raises:
            ValueError: a file is missing or damaged, or the folder is of a later form.
        """
        folder = Path(folder)
        _check_seal(folder)
        self.settings: dict[str, Any] = json.loads((folder / SETTINGS_FILE).read_text("utf-8"))
        if self.settings["format"] != FORMAT:
            raise ValueError(
                f"{folder}: form {self.settings['format']}, this code reads form {FORMAT}; "
                "update commerce-clip"
            )

        options = onnxruntime.SessionOptions()
        named = os.environ.get(THREADS, "")
        options.intra_op_num_threads = threads or (int(named) if named.isdigit() else 0)
        options.log_severity_level = 3
        self._text, self._image = (
            onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])
            for name in (TEXT_MODEL, IMAGE_MODEL)
        )

        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._clean = self.settings["clean"]
        self._fix_text = import_module("ftfy").fix_text if self._clean != "verbatim" else str

    @property
    def embed_dim(self) -> int:
        """Width D of an embedding."""
        return int(self.settings["embed_dim"])

    def embed_captions(self, captions: Sequence[str]) -> Embeddings:
        """Compute the embeddings of captions, float32 L2-normalised, [N, D]."""
        ids = self.token_ids(captions)
        embedded = np.empty((len(ids), self.embed_dim), np.float32)

        # Captions of similar length go together, so that few positions are padding.
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(ids), CAPTIONS_AT_ONCE):
            rows = order[start : start + CAPTIONS_AT_ONCE]
            length = len(ids[rows[-1]])
            tokens = np.full((len(rows), length), self.settings["padding"], np.int64)
            for place, row in enumerate(rows):
                tokens[place, : len(ids[row])] = ids[row]
            embedded[rows] = self._text.run(None, {"tokens": tokens})[0]
        return embedded

    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """List the token ids that the text tower reads of each caption.

        They end with the caption, or with the context where the tower reads its padding, too.
        """
        encoded = self._tokenizer.encode_batch([self._cleaned(caption) for caption in captions])
        ids: list[list[int]] = [one.ids for one in encoded]

        replaced = self.settings["replaced"]
        if replaced is not None:
            ids = [[0 if number == replaced else number for number in row] for row in ids]
        if self.settings["reads_padding"]:
            whole, padding = self.settings["context_length"], self.settings["padding"]
            ids = [row + [padding] * (whole - len(row)) for row in ids]
        return ids

    def embed_images(self, images: Sequence[bytes]) -> Embeddings:
        """Compute the embeddings of encoded images (JPEG, PNG, …), L2-normalised, [N, D].

        Raises:
            ValueError: an image cannot be decoded; names its place in the list and why.
        """
        embedded = [np.empty((0, self.embed_dim), np.float32)]
        for start in range(0, len(images), IMAGES_AT_ONCE):
            cut = []
            for place, encoded in enumerate(images[start : start + IMAGES_AT_ONCE], start):
                try:
                    cut.append(self.pixels(encoded))
                except ValueError as error:
                    raise ValueError(f"image {place}: {error}") from None
            embedded.append(self.embed_pixels(np.stack(cut)))
        return np.concatenate(embedded)

    def embed_pixels(self, pixels: Image8) -> Embeddings:
        """Compute the embeddings [N, D] of uint8 images [N, 3, side, side], L2-normalised."""
        parts = [
            self._image.run(None, {"pixels": pixels[start : start + IMAGES_AT_ONCE]})[0]
            for start in range(0, len(pixels), IMAGES_AT_ONCE)
        ]
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])

    def pixels(self, encoded: bytes) -> Image8:
        """Decode an image and return the square [3, side, side], RGB uint8, that the tower sees.

        Raises:
            ValueError: it is no image, cut, too large or damaged.
        """
        square = _square(_decoded(encoded), self.settings["image"])
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def _cleaned(self, caption: str) -> str:
        """Repair and simplify a caption as the tokeniser of the towers does before its pieces."""
        if self._clean == "verbatim":
            return caption
        text = html.unescape(html.unescape(self._fix_text(caption)))
        if self._clean == "canonicalize":
            text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
        text = text if self._clean == "whitespace" else text.lower()
        return " ".join(text.split())


def _check_seal(folder: Path) -> None:
    """Compare each file with the manifest.

    Raises:
        ValueError: the manifest or a file is missing, cut or changed.
    """
    try:
        sealed = json.loads((folder / SEAL).read_text("utf-8"))
        expected = {name: entry["sha256"] for name, entry in sealed.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{folder}: no readable {SEAL}; fetch the version again") from None

    for name, digest in expected.items():
        sha256 = hashlib.sha256()
        try:
            with open(folder / name, "rb") as file:
                while block := file.read(HASH_BLOCK):
                    sha256.update(block)
        except OSError:
            sha256 = hashlib.sha256()
        if sha256.hexdigest() != digest:
            raise ValueError(f"{folder / name}: missing or damaged; fetch the version again")


def _decoded(encoded: bytes) -> Image.Image:
    """Return an image in RGB: upright, alpha on white, 16 bit scaled, an animation's first frame.

    Raises:
        ValueError: it is no image, cut, too large or damaged.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS or max(image.size) > LONGEST_SIDE:
                raise ValueError(
                    f"{image.width} x {image.height} pixels, at most {MOST_PIXELS:,} are read; "
                    "make it smaller"
                )
            if _is_cut_off(encoded, str(image.format)):
                raise ValueError("its end is missing; fetch it again")
            image.load()
            turn = TURNS.get(_turned(image))
            return _rgb(image if turn is None else image.transpose(turn))
    except ValueError:
        raise
    except UNREADABLE_IMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(" <")[0]
        raise ValueError(f"not a readable JPEG, PNG, WebP, GIF, BMP or AVIF ({reason})") from None


def _turned(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or its block is malformed."""
    try:
        Image.Exif().load(image.info.get("exif", b""))
        return int(image.getexif().get(ORIENTATION, 1))
    except UNREADABLE_IMAGE:
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        scaled = (np.asarray(image).astype(np.uint32) + 128) // 257  # 65,535 becomes 255
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(clear, mask=clear)
    return white


def _is_cut_off(encoded: bytes, container: str) -> bool:
    """Whether the end mark of the format is missing, which decoders forgive."""
    return (
        (container in ("JPEG", "MPO") and encoded.rfind(b"\xff\xd9") < encoded.rfind(b"\xff\xda"))
        or (container == "PNG" and b"IEND\xaeB`\x82" not in encoded)
        or (container == "GIF" and b"\x00;" not in encoded)
        or (container == "WEBP" and int.from_bytes(encoded[4:8], "little") + 8 > len(encoded))
    )


def _square(image: Image.Image, wanted: dict[str, Any]) -> Image.Image:
    """Return the square that a model sees: all of the image squashed, or its centre."""
    side = int(wanted["side"])
    resample = Image.Resampling[str(wanted["interpolation"]).upper()]
    if wanted["is_squashed"]:
        return image.resize((side, side), resample)

    width, height = image.size
    new_width, new_height = (int(side * length / min(image.size)) for length in image.size)
    left, top = round((new_width - side) / 2), round((new_height - side) / 2)
    if max(image.size) <= LONG_AND_THIN * min(image.size):
        resized = image.resize((new_width, new_height), resample)
        return resized.crop((left, top, left + side, top + side))

    # A long, thin image is cut without its resized whole: columns first, then rows.
    x, y = width / new_width, height / new_height
    strip = image.resize((side, height), resample, box=(left * x, 0, (left + side) * x, height))
    return strip.resize((side, side), resample, box=(0, top * y, side, (top + side) * y))
