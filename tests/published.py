"""Models of others in miniature, each in the form that its row of the table is published in."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import default_bpe
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import (
    VisionTransformer,
    _create_vision_transformer,
    default_cfgs,
)
from tokenizers import Tokenizer, models, trainers
from torch.nn.functional import linear, multi_head_attention_forward, normalize
from transformers import (
    CLIPConfig,
    CLIPModel,
    RobertaConfig,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)

from model.zoo.family import PublishedModel
from model.zoo.forms import bpe, huggingface_siglip

SIDE, PATCH, TOKENS = 32, 16, 400
SIGLIP_TRUNK = "vit_test_patch16_siglip_32"
CAPTIONS = [
    "a red shirt",
    "Blue shoes, size 42!",
    "红色连衣裙",
    "red 连衣裙 dress",
    "👗🎀",
    "",
    "very " * 100 + "long dress",
]


def vit_test_patch16_siglip_32(pretrained: bool = False, **changes: Any) -> VisionTransformer:
    """Make a SigLIP image tower of two layers."""
    shape = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 32, "depth": 2, "num_heads": 2}
    kind = {"class_token": False, "global_pool": "map"}
    return _create_vision_transformer(
        SIGLIP_TRUNK, pretrained=pretrained, **(shape | kind | changes)
    )


def know_siglip() -> None:
    """Make the miniature known to timm and to the form."""
    if SIGLIP_TRUNK not in default_cfgs:
        vit_test_patch16_siglip_32.__module__ = VisionTransformer.__module__
        default_cfgs[SIGLIP_TRUNK] = default_cfgs["vit_base_patch16_siglip_224"]
        register_model(vit_test_patch16_siglip_32)
    huggingface_siglip.TIMM_SIZES[(32, 2)] = "test"


def clip_architecture(quick_gelu: bool) -> dict[str, Any]:
    """Return CLIP in miniature; heads of the image tower have width 64, as EasyNLP's must."""
    return {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 128, "patch_size": PATCH},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }


def siglip_architecture() -> dict[str, Any]:
    """Return open_clip's SigLIP in miniature."""
    know_siglip()
    architecture = open_clip.get_model_config("ViT-B-16-SigLIP")
    architecture["embed_dim"] = 32
    architecture["vision_cfg"] |= {"image_size": SIDE, "timm_model_name": SIGLIP_TRUNK}
    architecture["text_cfg"] |= {
        "context_length": 16,
        "vocab_size": TOKENS,
        "width": 32,
        "heads": 2,
        "layers": 2,
    }
    return dict(architecture)


def write_open_clip(
    folder: Path, architecture: dict[str, Any], preprocess: dict[str, Any] | None = None
) -> Any:
    """Write a folder as open_clip publishes it and return its model with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": architecture, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if architecture["text_cfg"].get("hf_tokenizer_name"):
        write_tokenizer(folder)

    torch.manual_seed(1)
    clip = open_clip.create_model(
        f"local-dir:{folder}", load_weights=False, pretrained_text=False
    ).eval()
    with torch.no_grad():
        for parameter in clip.parameters():  # what is set to zero or one would hide a mistake
            parameter.add_(0.02 * torch.randn(parameter.shape))
    save_file(contiguous(clip.state_dict()), folder / "open_clip_model.safetensors")
    return clip


def contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def write_tokenizer(folder: Path) -> None:
    """Write a few hundred byte pairs, with bytes to fall back on, in the form of SigLIP 2's."""
    special = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
    ]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.train_from_iterator(
        [caption.lower().replace(" ", "▁") for caption in CAPTIONS[:4]] * 3,
        trainers.BpeTrainer(vocab_size=TOKENS - 10, special_tokens=special, show_progress=False),
    )

    whole = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in whole["merges"]]
    tokenizer = Siglip2Tokenizer(
        vocab=whole["vocab"], merges=merges, padding_side="right", add_eos_token=True
    )
    tokenizer.save_pretrained(folder)


def write_easynlp(folder: Path, clip: Any, architecture: dict[str, Any]) -> None:
    """Write a folder as EasyNLP publishes it, of open_clip's towers."""
    folder.mkdir(parents=True, exist_ok=True)
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    config = {
        "embed_dim": architecture["embed_dim"],
        "image_resolution": vision["image_size"],
        "vision_layers": vision["layers"],
        "vision_width": vision["width"],
        "vision_patch_size": vision["patch_size"],
        "context_length": text["context_length"],
        "vocab_size": text["vocab_size"],
        "transformer_width": text["width"],
        "transformer_heads": text["heads"],
        "transformer_layers": text["layers"],
        "model_type": "open_clip",
    }

    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_bytes(Path(default_bpe()).read_bytes())
    torch.save(
        {f"open_clip.{name}": value for name, value in clip.state_dict().items()},
        folder / "pytorch_model.bin",
    )


def write_hugging_face_clip(folder: Path, hidden_act: str, is_true_size: bool = False) -> Any:
    """Write a folder as FashionCLIP is published and return transformers' model of it."""
    text = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision |= {"image_size": SIDE, "patch_size": PATCH}
    projection = {"projection_dim": 16}
    if is_true_size:  # what transformers takes where nothing is stated: ViT-B-32
        text, vision, projection = {}, {}, {}

    torch.manual_seed(2)
    model = CLIPModel(
        CLIPConfig(
            text_config={**text, "hidden_act": hidden_act, "eos_token_id": 2, "bos_token_id": 0},
            vision_config={**vision, "hidden_act": hidden_act},
            **projection,
        )
    ).eval()
    model.save_pretrained(folder)
    for name, content in bpe.hugging_face_bpe(77).items():
        (folder / name).write_bytes(content)
    return model


def write_siglip2(folder: Path, is_true_size: bool = False) -> Any:
    """Write a folder as SigLIP 2 is published and return transformers' model of it."""
    know_siglip()
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"intermediate_size": 64, "vocab_size": TOKENS, "max_position_embeddings": 16}
    vision = {"intermediate_size": 128, "image_size": SIDE, "patch_size": PATCH}
    if is_true_size:  # transformers' own, but for Gemma's vocabulary
        shape, text, vision = {}, {"vocab_size": 256_000}, {}
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}

    torch.manual_seed(3)
    model = SiglipModel(
        SiglipConfig(text_config={**shape, **text, **special}, vision_config={**shape, **vision})
    ).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_with_hugging_face_text(folder: Path) -> Any:
    """Write an open_clip folder with a RoBERTa of transformers as text tower; return its model."""
    folder.mkdir(parents=True)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    RobertaConfig(
        vocab_size=TOKENS, max_position_embeddings=32, **shape, **special
    ).save_pretrained(folder)

    architecture = clip_architecture(False)
    architecture["text_cfg"] = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_model_pretrained": False,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "mlp",
        "context_length": 16,
        "vocab_size": TOKENS,
    }
    return write_open_clip(folder, architecture)


def publish(row: PublishedModel, folder: Path) -> None:
    """Write a row of the table in miniature, as it is published."""
    if row.form == "easynlp":
        clip = write_open_clip(
            folder.with_name(f"{folder.name}-source"), clip_architecture(quick_gelu=True)
        )
        write_easynlp(folder, clip, clip_architecture(quick_gelu=True))
    elif row.form == "open_clip":
        is_siglip = "SigLIP" in str(row.architecture)
        quick_gelu = row.activation == "quickgelu"
        write_open_clip(
            folder, siglip_architecture() if is_siglip else clip_architecture(quick_gelu)
        )
    elif "SigLIP" in str(row.architecture):
        write_siglip2(folder)
    else:
        write_hugging_face_clip(folder, {"quickgelu": "quick_gelu", "gelu": "gelu"}[row.activation])


def easynlp_image(
    tensors: dict[str, torch.Tensor], pixels: torch.Tensor, patch: int
) -> torch.Tensor:
    """Return what EasyNLP's image tower makes of pixels, step by step."""
    of = partial(_named, tensors, "visual.")
    x = torch.nn.functional.conv2d(pixels, of("conv1.weight"), stride=patch).flatten(2).mT
    x = torch.cat([of("class_embedding").expand(len(x), 1, -1), x], dim=1) + of(
        "positional_embedding"
    )

    x = _norm(x, of, "ln_pre")
    for layer in range(_layers(tensors, "visual.transformer.")):
        block = partial(_named, tensors, f"visual.transformer.resblocks.{layer}.")
        x = _easynlp_block(x, block, x.shape[-1] // 64, None)
    return normalize(_norm(x[:, 0], of, "ln_post") @ of("proj"), dim=-1)


def easynlp_text(tensors: dict[str, torch.Tensor], ids: torch.Tensor, heads: int) -> torch.Tensor:
    """Return what EasyNLP's text tower makes of token ids, step by step."""
    of = partial(_named, tensors, "")
    x = of("token_embedding.weight")[ids] + of("positional_embedding")

    mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
    for layer in range(_layers(tensors, "transformer.")):
        block = partial(_named, tensors, f"transformer.resblocks.{layer}.")
        x = _easynlp_block(x, block, heads, mask)

    x = _norm(x, of, "ln_final")
    return normalize(x[torch.arange(len(x)), ids.argmax(dim=-1)] @ of("text_projection"), dim=-1)


def _layers(tensors: dict[str, torch.Tensor], prefix: str) -> int:
    names = [name for name in tensors if name.startswith(f"open_clip.{prefix}")]
    return sum(name.endswith("in_proj_weight") for name in names)


def _named(tensors: dict[str, torch.Tensor], prefix: str, name: str) -> torch.Tensor:
    return tensors[f"open_clip.{prefix}{name}"]


def _norm(x: torch.Tensor, of: Callable[[str], torch.Tensor], name: str) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], of(f"{name}.weight"), of(f"{name}.bias"))


def _easynlp_block(
    x: torch.Tensor, of: Callable[[str], torch.Tensor], heads: int, mask: torch.Tensor | None
) -> torch.Tensor:
    y = _norm(x, of, "ln_1").transpose(0, 1)
    mixed, _ = multi_head_attention_forward(
        y, y, y, y.shape[-1], heads,
        of("attn.in_proj_weight"), of("attn.in_proj_bias"), None, None, False, 0.0,
        of("attn.out_proj.weight"), of("attn.out_proj.bias"), attn_mask=mask, need_weights=False,
    )  # fmt: skip
    x = x + mixed.transpose(0, 1)

    hidden = linear(_norm(x, of, "ln_2"), of("mlp.c_fc.weight"), of("mlp.c_fc.bias"))
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    return x + linear(hidden, of("mlp.c_proj.weight"), of("mlp.c_proj.bias"))
