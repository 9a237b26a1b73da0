"""The family: every published model that this project takes in and gives back, one row a model."""

from dataclasses import dataclass
from functools import partial
from typing import Literal


@dataclass(frozen=True)
class PublishedModel:
    """A row of the table; ``architecture`` is None where the published files say it all."""

    name: str
    towers: str  # in words
    parameters: int  # millions
    architecture: str | None  # the open_clip name of its towers
    source: str  # where its weights come from
    form: str  # NAME of a module in model.zoo.forms
    verified: str  # against what its embeddings were compared
    activation: Literal["gelu", "quickgelu", "gelu-tanh"] = "quickgelu"
    licence: str = "MIT"
    language: str = "English"
    resolution: int = 224  # pixels
    tag: str | None = None  # open_clip's name of the weights


B_16 = "ViT-B-16, 12-layer text transformer"
B_32 = "ViT-B-32, 12-layer text transformer"
L_14 = "ViT-L-14, 12-layer text transformer"
SIGLIP = "SigLIP, ViT-B-16 of timm, 12-layer text transformer"
SIGLIP_2 = "SigLIP 2, ViT-B-16 of timm, 12-layer text transformer"
HUB = "Hugging Face,"

# What the rows of one origin share.
_openai = partial(
    PublishedModel,
    source="open_clip tag openai",
    tag="openai",
    form="open_clip",
    verified="open_clip's own loader",
)
_laion = partial(_openai, activation="gelu")
_marqo = partial(_laion, tag=None, licence="Apache-2.0")
_pai = partial(
    PublishedModel,
    source="EasyNLP's model zoo",
    form="easynlp",
    verified="a twin of EasyNLP's towers in the tests",
    licence="Apache-2.0",
)
_fashion = partial(PublishedModel, form="huggingface", verified="transformers' CLIPModel")
_siglip2 = partial(
    PublishedModel,
    form="huggingface",
    verified="transformers' SiglipModel",
    activation="gelu-tanh",
    licence="Apache-2.0",
    language="many",
)
_pai_chinese = partial(
    _pai,
    architecture=None,
    verified="transformers' BertModel and CLIPVisionModel",
    language="Chinese",
)
_chinese_clip = partial(
    PublishedModel,
    architecture=None,
    form="huggingface",
    verified="transformers' ChineseCLIPModel",
    language="Chinese",
)

# fmt: off
FAMILY: tuple[PublishedModel, ...] = (
    _openai("vit-b-32-openai", B_32, 151, "ViT-B-32"),
    _laion("vit-b-32-laion2b", B_32, 151, "ViT-B-32",
           source="open_clip tag laion2b_s34b_b79k", tag="laion2b_s34b_b79k"),
    _openai("vit-l-14-openai", L_14, 428, "ViT-L-14"),
    _laion("vit-l-14-laion2b", L_14, 428, "ViT-L-14",
           source="open_clip tag laion2b_s32b_b82k", tag="laion2b_s32b_b82k"),
    _pai("pai-clip-commercial-base-en", B_32, 151, "ViT-B-32-quickgelu"),
    _pai("pai-clip-commercial-large-en", L_14, 428, "ViT-L-14-quickgelu"),
    _fashion("fashion-clip", B_32, 151, "ViT-B-32-quickgelu",
             source=f"{HUB} patrickjohncyh/fashion-clip, first revision"),
    _fashion("fashion-clip-2", B_32, 151, "ViT-B-32",
             source=f"{HUB} patrickjohncyh/fashion-clip", activation="gelu"),
    _marqo("marqo-fashion-clip", B_16, 150, "ViT-B-16", source=f"{HUB} Marqo/marqo-fashionCLIP"),
    _marqo("marqo-fashion-siglip", SIGLIP, 203, "ViT-B-16-SigLIP",
           source=f"{HUB} Marqo/marqo-fashionSigLIP"),
    _siglip2("siglip2-base", SIGLIP_2, 375, "ViT-B-16-SigLIP2",
             source=f"{HUB} google/siglip2-base-patch16-224"),
    _siglip2("zooclaw-fashion-siglip2", SIGLIP_2, 375, "ViT-B-16-SigLIP2",
             source="its authors' page at Hugging Face (ZooClaw-FashionSigLIP2)",
             licence="see its model card"),
    _pai_chinese("clip_chinese_roberta_base_vit_base", "ViT-B-32, RoBERTa-base (Chinese)", 190),
    _pai_chinese("clip_chinese_roberta_base_vit_large", "ViT-L-14, RoBERTa-base (Chinese)", 406),
    _pai_chinese("clip_chinese_roberta_large_with_vit_large",
                 "ViT-L-14, RoBERTa-large (Chinese), pooled", 630,
                 source="EasyNLP's model zoo, first form", form="easynlp-first",
                 verified="transformers' RobertaModel and CLIPVisionModel"),
    _chinese_clip("chinese-clip-vit-b-16", "ViT-B-16, RoBERTa-base (Chinese)", 188,
                  source=f"{HUB} OFA-Sys/chinese-clip-vit-base-patch16"),
    _chinese_clip("chinese-clip-vit-l-14", "ViT-L-14, RoBERTa-base (Chinese)", 406,
                  source=f"{HUB} OFA-Sys/chinese-clip-vit-large-patch14"),
    _chinese_clip("chinese-clip-rn50", "RN50, 3-layer RoBERTa (Chinese)", 77,
                  source=f"{HUB} OFA-Sys/chinese-clip-rn50, clip_cn_rn50.pt", form="chinese-clip",
                  verified="transformers' BertModel and open_clip's ResNet"),
)
# fmt: on


def find_published(name: str) -> PublishedModel | None:
    """Return the row of a name, None where the table has none."""
    return next((row for row in FAMILY if row.name == name), None)


def licence_of(name: str) -> str | None:
    """Return the licence of a row of the table, None where it has no such row."""
    return next((row.licence for row in FAMILY if row.name == name), None)
