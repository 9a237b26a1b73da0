"""The family: every published model that this project takes in and gives back, one row a model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """A published model."""

    name: str
    towers: str  # in words
    architecture: (
        str | None
    )  # the open_clip name of its towers; None where the published files say it all
    language: str
    resolution: int  # pixels
    parameters: int  # millions
    licence: str
    source: str  # where its weights come from
    form: str  # NAME of a module in model.zoo.forms
    activation: Literal["gelu", "quickgelu", "gelu-tanh"]
    verified: str  # against what its embeddings were compared
    tag: str | None = None  # open_clip's name of the weights


OPEN_CLIP = "open_clip's own loader"

FAMILY: tuple[Row, ...] = (
    Row(
        name="vit-b-32-openai",
        towers="ViT-B-32, 12-layer text transformer",
        architecture="ViT-B-32",
        tag="openai",
        language="English",
        resolution=224,
        parameters=151,
        licence="MIT",
        source="open_clip tag openai",
        form="open_clip",
        activation="quickgelu",
        verified=OPEN_CLIP,
    ),
    Row(
        name="vit-b-32-laion2b",
        towers="ViT-B-32, 12-layer text transformer",
        architecture="ViT-B-32",
        tag="laion2b_s34b_b79k",
        language="English",
        resolution=224,
        parameters=151,
        licence="MIT",
        source="open_clip tag laion2b_s34b_b79k",
        form="open_clip",
        activation="gelu",
        verified=OPEN_CLIP,
    ),
    Row(
        name="vit-l-14-openai",
        towers="ViT-L-14, 12-layer text transformer",
        architecture="ViT-L-14",
        tag="openai",
        language="English",
        resolution=224,
        parameters=428,
        licence="MIT",
        source="open_clip tag openai",
        form="open_clip",
        activation="quickgelu",
        verified=OPEN_CLIP,
    ),
    Row(
        name="vit-l-14-laion2b",
        towers="ViT-L-14, 12-layer text transformer",
        architecture="ViT-L-14",
        tag="laion2b_s32b_b82k",
        language="English",
        resolution=224,
        parameters=428,
        licence="MIT",
        source="open_clip tag laion2b_s32b_b82k",
        form="open_clip",
        activation="gelu",
        verified=OPEN_CLIP,
    ),
    Row(
        name="pai-clip-commercial-base-en",
        towers="ViT-B-32, 12-layer text transformer",
        architecture="ViT-B-32-quickgelu",
        language="English",
        resolution=224,
        parameters=151,
        licence="Apache-2.0",
        source="EasyNLP's model zoo",
        form="easynlp",
        activation="quickgelu",
        verified="a twin of EasyNLP's towers in the tests",
    ),
    Row(
        name="pai-clip-commercial-large-en",
        towers="ViT-L-14, 12-layer text transformer",
        architecture="ViT-L-14-quickgelu",
        language="English",
        resolution=224,
        parameters=428,
        licence="Apache-2.0",
        source="EasyNLP's model zoo",
        form="easynlp",
        activation="quickgelu",
        verified="a twin of EasyNLP's towers in the tests",
    ),
    Row(
        name="fashion-clip",
        towers="ViT-B-32, 12-layer text transformer",
        architecture="ViT-B-32-quickgelu",
        language="English",
        resolution=224,
        parameters=151,
        licence="MIT",
        source="Hugging Face, patrickjohncyh/fashion-clip, first revision",
        form="huggingface",
        activation="quickgelu",
        verified="transformers' CLIPModel",
    ),
    Row(
        name="fashion-clip-2",
        towers="ViT-B-32, 12-layer text transformer",
        architecture="ViT-B-32",
        language="English",
        resolution=224,
        parameters=151,
        licence="MIT",
        source="Hugging Face, patrickjohncyh/fashion-clip",
        form="huggingface",
        activation="gelu",
        verified="transformers' CLIPModel",
    ),
    Row(
        name="marqo-fashion-clip",
        towers="ViT-B-16, 12-layer text transformer",
        architecture="ViT-B-16",
        language="English",
        resolution=224,
        parameters=150,
        licence="Apache-2.0",
        source="Hugging Face, Marqo/marqo-fashionCLIP",
        form="open_clip",
        activation="gelu",
        verified=OPEN_CLIP,
    ),
    Row(
        name="marqo-fashion-siglip",
        towers="SigLIP, ViT-B-16 of timm, 12-layer text transformer",
        architecture="ViT-B-16-SigLIP",
        language="English",
        resolution=224,
        parameters=203,
        licence="Apache-2.0",
        source="Hugging Face, Marqo/marqo-fashionSigLIP",
        form="open_clip",
        activation="gelu",
        verified=OPEN_CLIP,
    ),
    Row(
        name="siglip2-base",
        towers="SigLIP 2, ViT-B-16 of timm, 12-layer text transformer",
        architecture="ViT-B-16-SigLIP2",
        language="many",
        resolution=224,
        parameters=375,
        licence="Apache-2.0",
        source="Hugging Face, google/siglip2-base-patch16-224",
        form="huggingface",
        activation="gelu-tanh",
        verified="transformers' SiglipModel",
    ),
    Row(
        name="zooclaw-fashion-siglip2",
        towers="SigLIP 2, ViT-B-16 of timm, 12-layer text transformer",
        architecture="ViT-B-16-SigLIP2",
        language="many",
        resolution=224,
        parameters=375,
        licence="see its model card",
        source="its authors' page at Hugging Face (ZooClaw-FashionSigLIP2)",
        form="huggingface",
        activation="gelu-tanh",
        verified="transformers' SiglipModel",
    ),
    Row(
        name="clip_chinese_roberta_base_vit_base",
        towers="ViT-B-32, RoBERTa-base (Chinese)",
        architecture=None,
        language="Chinese",
        resolution=224,
        parameters=190,
        licence="Apache-2.0",
        source="EasyNLP's model zoo",
        form="easynlp",
        activation="quickgelu",
        verified="transformers' BertModel and CLIPVisionModel",
    ),
    Row(
        name="clip_chinese_roberta_base_vit_large",
        towers="ViT-L-14, RoBERTa-base (Chinese)",
        architecture=None,
        language="Chinese",
        resolution=224,
        parameters=406,
        licence="Apache-2.0",
        source="EasyNLP's model zoo",
        form="easynlp",
        activation="quickgelu",
        verified="transformers' BertModel and CLIPVisionModel",
    ),
    Row(
        name="clip_chinese_roberta_large_with_vit_large",
        towers="ViT-L-14, RoBERTa-large (Chinese), pooled",
        architecture=None,
        language="Chinese",
        resolution=224,
        parameters=630,
        licence="Apache-2.0",
        source="EasyNLP's model zoo, first form",
        form="easynlp-first",
        activation="quickgelu",
        verified="transformers' RobertaModel and CLIPVisionModel",
    ),
    Row(
        name="chinese-clip-vit-b-16",
        towers="ViT-B-16, RoBERTa-base (Chinese)",
        architecture=None,
        language="Chinese",
        resolution=224,
        parameters=188,
        licence="MIT",
        source="Hugging Face, OFA-Sys/chinese-clip-vit-base-patch16",
        form="huggingface",
        activation="quickgelu",
        verified="transformers' ChineseCLIPModel",
    ),
    Row(
        name="chinese-clip-vit-l-14",
        towers="ViT-L-14, RoBERTa-base (Chinese)",
        architecture=None,
        language="Chinese",
        resolution=224,
        parameters=406,
        licence="MIT",
        source="Hugging Face, OFA-Sys/chinese-clip-vit-large-patch14",
        form="huggingface",
        activation="quickgelu",
        verified="transformers' ChineseCLIPModel",
    ),
    Row(
        name="chinese-clip-rn50",
        towers="RN50, 3-layer RoBERTa (Chinese)",
        architecture=None,
        language="Chinese",
        resolution=224,
        parameters=77,
        licence="MIT",
        source="Hugging Face, OFA-Sys/chinese-clip-rn50, clip_cn_rn50.pt",
        form="chinese-clip",
        activation="quickgelu",
        verified="transformers' BertModel and open_clip's ResNet",
    ),
)


def find_row(name: str) -> Row | None:
    """Return the row of a name, None where the table has none."""
    return next((row for row in FAMILY if row.name == name), None)


def licence_of(name: str) -> str | None:
    """Return the licence of a row of the table, None where it has no such row."""
    row = find_row(name)
    return row.licence if row else None
