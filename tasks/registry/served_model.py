"""The registered model as MLflow loads it: a DataFrame of captions or images in, embeddings out.

MLflow runs this file itself when it loads a version ("models from code"), so no pickled object is
ever read. It imports nothing of this project by name: a caller may have modules called ``model``
and ``tasks``. What embeds is `model.embeddings.served`, which lies beside the data files; where a
version has none, because its towers could not be exported, torch's towers serve.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

# What encoded images begin with when they are written as base64, as text or as bytes.
BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "Qk", "data:image/")


class EmbeddingModel(PythonModel):
    """Embeds captions and images with the registered towers."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the towers after checking the SHA-256 of their files."""
        if "served" not in context.artifacts:
            self.towers: Any = _TorchTowers(Path(context.artifacts["model"]))
            return

        # A name of its own a folder: versions with other code can be loaded side by side.
        folder = Path(context.artifacts["served"])
        name = f"commerce_clip_served_{abs(hash(str(folder)))}"
        spec = spec_from_file_location(name, folder / "embedder.py")
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        self.towers = module.ServedTowers(folder)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return the embeddings of captions, of images, or of both, a row a row of the input.

        ``text_embedding`` is there for a ``caption`` column (str), ``image_embedding`` for
        ``image`` (bytes): lists of D floats, L2-normalised, None where the value is missing. Index
        and order are the input's, and a column ``id`` comes along.

        Raises:
            ValueError: there is neither column, a caption is no text, or an image cannot be read.
        """
        if not {"caption", "image"}.intersection(model_input):
            raise ValueError(
                "the DataFrame needs a column 'caption' (text) or 'image' (bytes of an image)"
            )

        embedded = pd.DataFrame(index=model_input.index)
        if "id" in model_input:
            embedded["id"] = model_input["id"]
        if "caption" in model_input:
            embedded["text_embedding"] = _embedded(model_input["caption"], _text, self._texts)
        if "image" in model_input:
            embedded["image_embedding"] = _embedded(model_input["image"], _image, self._images)
        return embedded

    def _texts(self, rows: list[int], captions: list[str]) -> list[list[float]]:
        return list(self.towers.embed_captions(captions).tolist())

    def _images(self, rows: list[int], images: list[bytes]) -> list[list[float]]:
        try:
            return list(self.towers.embed_images(images).tolist())
        except ValueError as error:
            # It names the place among the images that are there.
            place, _, reason = str(error).removeprefix("image ").partition(": ")
            raise ValueError(f"image in row {rows[int(place)]}: {reason}") from None


class _TorchTowers:
    """Towers that have no other form, in an environment that holds torch and open_clip."""

    def __init__(self, folder: Path) -> None:
        self._embed = import_module("model.embeddings.embed")
        self._towers = import_module("model.towers.folder").load_towers(folder)

    def embed_captions(self, captions: list[str]) -> Any:
        return self._embed.embed_captions(self._towers, captions)

    def embed_images(self, images: list[bytes]) -> Any:
        try:
            return self._embed.embed_encoded_images(self._towers, images)
        except ValueError as error:
            raise ValueError(str(error).replace("image in row", "image", 1)) from None


def _embedded(column: pd.Series, check: Any, embed: Any) -> pd.Series:
    """Return a column of embeddings, None where the value is missing."""
    rows = [row for row, is_missing in enumerate(column.isna()) if not is_missing]
    values = [check(row, column.iloc[row]) for row in rows]
    cells: list[list[float] | None] = [None] * len(column)
    if rows:
        for row, embedding in zip(rows, embed(rows, values), strict=True):
            cells[row] = embedding
    return pd.Series(cells, index=column.index, dtype=object)


def _text(row: int, value: object) -> str:
    """Return a caption.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str):
        return value
    raise ValueError(f"caption in row {row}: a {type(value).__name__}, not text; pass a str")


def _image(row: int, value: object) -> bytes:
    """Return the bytes of an encoded image.

    Raises:
        ValueError: it is base64, the path of a file, or something else.
    """
    where = f"image in row {row}"
    if isinstance(value, bytes | bytearray | memoryview):
        encoded = bytes(value)
        if encoded[:11].decode("latin-1").startswith(BASE64_STARTS[:4]):
            raise ValueError(f"{where}: base64 in bytes; pass base64.b64decode of it")
        return encoded

    if isinstance(value, str):
        if value.startswith(BASE64_STARTS):
            raise ValueError(f"{where}: base64 text; pass base64.b64decode of it")
        raise ValueError(f"{where}: text, perhaps the path of a file; pass the bytes of the file")
    if isinstance(value, Path):
        raise ValueError(f"{where}: the path of a file; pass the bytes of the file")
    raise ValueError(f"{where}: a {type(value).__name__}; pass the bytes of an encoded image")


set_model(EmbeddingModel())
