"""The registered model as MLflow loads it: a DataFrame of captions or images in, embeddings out.

MLflow runs this file itself when it loads a version ("models from code"), so no pickled object is
ever read.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from model.embeddings.embed import embed_captions, embed_encoded_images
from model.towers.folder import load_towers


class EmbeddingModel(PythonModel):
    """Embeds captions and images with the registered towers."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the towers after checking the SHA-256 of their files."""
        self.towers = load_towers(Path(context.artifacts["model"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return the embeddings of the captions, of the images, or of both.

        ``text_embedding`` is there for a ``caption`` column (str), ``image_embedding`` for
        ``image`` (bytes): lists of D floats, L2-normalised.

        Raises:
            ValueError: there is neither column, or an image cannot be read.
        """
        embedded = pd.DataFrame(index=model_input.index)
        if "caption" in model_input and model_input["caption"].notna().all():
            embedded["text_embedding"] = embed_captions(
                self.towers, model_input["caption"].tolist()
            ).tolist()
        if "image" in model_input and model_input["image"].notna().all():
            embedded["image_embedding"] = embed_encoded_images(
                self.towers, model_input["image"].tolist()
            ).tolist()
        if embedded.empty:
            raise ValueError(
                "the DataFrame needs a full column 'caption' (text) or 'image' (bytes of a picture)"
            )
        return embedded


set_model(EmbeddingModel())
