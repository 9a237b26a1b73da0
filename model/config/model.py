"""The `model` section: which towers, and the weights that they start from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Section, is_unset

Channels = tuple[float, float, float]
Head = Literal["linear", "mlp"]
Side = Annotated[int, Field(ge=1)]


class ImageTowerConfig(Section):
    """An image tower of its own make, with a projection head of ours."""

    name: str | None = Field(
        None,
        description="A timm model (tf_efficientnet_lite0) or an open_clip model (ViT-B-32) whose "
        "image tower is taken; null where pretrained is an imported model.",
    )
    pretrained: str | None = Field(
        None,
        description="Its weights: a .safetensors, .pt, .pth or .bin file or the folder that holds "
        "one, an imported model, or a tag of timm's or open_clip's, which is downloaded; null "
        "draws them from the seed, with a warning.",
    )
    image_size: Side | None = Field(
        None, description="Side of the images that it sees, pixels; null keeps its own."
    )
    mean: Channels | None = Field(
        None, description="Mean of the pixels by channel, 0 to 1; null keeps its own."
    )
    std: Channels | None = Field(
        None,
        description="Standard deviation of the pixels by channel, 0 to 1; null keeps its own.",
    )
    head: Head = Field(
        "linear",
        description="Projection to the embedding: linear, or mlp with one hidden layer (timm).",
    )


class TextTowerConfig(Section):
    """A text tower of its own make, with its tokeniser and a projection head of ours."""

    name: str | None = Field(
        None,
        description="An open_clip model whose text tower is taken, or the folder of a Hugging Face "
        "text encoder whose weights shall be drawn anew; null where pretrained says it all.",
    )
    pretrained: str | None = Field(
        None,
        description="Its weights: the folder or hub name (owner/model) of a Hugging Face text "
        "encoder (BERT, RoBERTa, MiniLM, XLM-R), an imported model, or with an open_clip name a "
        "file or tag; null draws them from the seed, with a warning.",
    )
    pooling: Literal["cls", "mean", "pooler"] = Field(
        "mean",
        description="What a Hugging Face encoder hands on: the first token's hidden state, the "
        "mean of all, or what its own pooler makes of the first.",
    )
    context_length: int | None = Field(
        None,
        ge=3,
        description="Tokens of a caption that it reads; null: as many as it can, at most 77.",
    )
    head: Head = Field(
        "linear",
        description="Projection to the embedding: linear, or mlp with one hidden layer (Hugging "
        "Face encoders).",
    )


class ModelConfig(Section):
    """Which towers, and the weights that they start from."""

    name: str = Field(
        "ViT-B-32",
        description="An open_clip model name, or the path of a JSON config (configs/models/…).",
    )
    pretrained: str | None = Field(
        None,
        description="Base weights: a model that `models import` took in, by its name, which brings "
        "its own towers so that name is not looked at; an open_clip tag (laion2b_s34b_b79k), a "
        "local .safetensors, .pt or .bin file, or null for random weights.",
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="Side of the images that the image tower sees, a multiple of its patches, "
        "pixels; the positions of pretrained patches are interpolated. null keeps the model's "
        "own.",
    )
    vocabulary: str | None = Field(
        None,
        description="vocab.txt of a BERT text tower that has none of its own yet "
        "(configs/models/roberta-…); travels with the model. null for other towers and for "
        "imported models.",
    )
    context_length: int | None = Field(
        None,
        ge=1,
        description="Tokens of a caption that a BERT text tower reads; null keeps the model's own.",
    )
    image_tower: ImageTowerConfig | None = Field(
        None,
        exclude_if=is_unset,
        description="Image tower of its own make, beside text_tower; name is not looked at then.",
    )
    text_tower: TextTowerConfig | None = Field(
        None, exclude_if=is_unset, description="Text tower of its own make, beside image_tower."
    )
    embed_dim: int | None = Field(
        None,
        ge=1,
        exclude_if=is_unset,
        description="Width of the embedding of image_tower and text_tower; null takes that of an "
        "open_clip tower among them, else 512.",
    )

    @model_validator(mode="after")
    def _names_both_towers_or_none(self) -> Self:
        if (self.image_tower is None) != (self.text_tower is None):
            missing = "text_tower" if self.text_tower is None else "image_tower"
            raise ValueError(
                f"{missing} is missing; image_tower and text_tower are set together or not at all"
            )

        # What belongs to a model whose towers come together.
        others = ("pretrained", "image_size", "vocabulary", "context_length")
        stated = [name for name in others if getattr(self, name) is not None]
        if self.image_tower is not None and stated:
            raise ValueError(
                f"{', '.join(stated)} belongs to a model whose towers come together; set it in "
                "image_tower or text_tower"
            )
        if self.image_tower is None and self.embed_dim is not None:
            raise ValueError("embed_dim is that of image_tower and text_tower, which are not set")
        return self
