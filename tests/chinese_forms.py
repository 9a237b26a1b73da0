"""Chinese models with random weights by their own libraries, each saved as it is published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    RobertaConfig,
    RobertaModel,
)

from tests.chinese import TINY_BERT, tokens_in_vocabulary, vocabulary
from tests.tiny import SIDE, WIDTH

SCALE = 2.3
Embed = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Reference = tuple[Path, Embed]


class Shapes(NamedTuple):
    """How large the towers are, by transformers' names, and the noise on their weights."""

    text: dict[str, int]
    vision: dict[str, int]
    width: int
    noise: float


# What BERT and ViT of size large have in place of their base sizes.
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
TINY = Shapes(
    text={"vocab_size": tokens_in_vocabulary(), **TINY_BERT},
    vision={
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "image_size": SIDE,
        "patch_size": 8,
    },
    width=WIDTH,
    noise=0.3,
)


def shaken(model: torch.nn.Module, noise: float = TINY.noise) -> Any:
    """Return a model whose every parameter is random, norms and biases too."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def huggingface(folder: Path, shapes: Shapes = TINY) -> Reference:
    """Save transformers' ChineseCLIPModel."""
    vision = shapes.vision | {"projection_dim": shapes.width}
    config = ChineseCLIPConfig(
        text_config=shapes.text, vision_config=vision, projection_dim=shapes.width
    )

    model = shaken(ChineseCLIPModel(config), shapes.noise)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes(vocabulary())

    def embed(tokens: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text = model.text_model(
            input_ids=tokens, attention_mask=(tokens != 0).long()
        ).last_hidden_state[:, 0]
        image = model.vision_model(pixel_values=pixels).pooler_output
        return model.text_projection(text), model.visual_projection(image)

    return folder, embed


def openai_state(hugging: Any) -> dict[str, torch.Tensor]:
    """Return a Hugging Face vision transformer's tensors by OpenAI's names, written out plainly."""
    at = hugging.state_dict()
    state = {
        "visual.class_embedding": at["embeddings.class_embedding"],
        "visual.positional_embedding": at["embeddings.position_embedding.weight"],
        "visual.conv1.weight": at["embeddings.patch_embedding.weight"],
    }

    for kind in ("weight", "bias"):
        state[f"visual.ln_pre.{kind}"] = at[f"pre_layrnorm.{kind}"]
        state[f"visual.ln_post.{kind}"] = at[f"post_layernorm.{kind}"]
        for number in range(hugging.config.num_hidden_layers):
            here, there = f"visual.transformer.resblocks.{number}", f"encoder.layers.{number}"
            heads = [at[f"{there}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{here}.attn.in_proj_{kind}"] = torch.cat(heads)
            state[f"{here}.attn.out_proj.{kind}"] = at[f"{there}.self_attn.out_proj.{kind}"]
            state[f"{here}.ln_1.{kind}"] = at[f"{there}.layer_norm1.{kind}"]
            state[f"{here}.ln_2.{kind}"] = at[f"{there}.layer_norm2.{kind}"]
            state[f"{here}.mlp.c_fc.{kind}"] = at[f"{there}.mlp.fc1.{kind}"]
            state[f"{here}.mlp.c_proj.{kind}"] = at[f"{there}.mlp.fc2.{kind}"]
    return state


def plain_reference(shapes: Shapes = TINY) -> tuple[dict[str, torch.Tensor], Embed]:
    """Return Chinese-CLIP's tensors, of BERT and CLIP's image tower, and what they compute."""
    text = shaken(BertModel(BertConfig(**shapes.text), add_pooling_layer=True), shapes.noise)
    vision = shaken(CLIPVisionModel(CLIPVisionConfig(**shapes.vision)), shapes.noise)
    inner = getattr(vision, "vision_model", vision)

    drawn = torch.Generator().manual_seed(2)
    matrix = torch.randn(shapes.text["hidden_size"], shapes.width, generator=drawn)
    proj = torch.randn(shapes.vision["hidden_size"], shapes.width, generator=drawn)
    state = {f"bert.{name}": tensor for name, tensor in text.state_dict().items()} | openai_state(
        inner
    )
    state |= {"text_projection": matrix, "visual.proj": proj, "logit_scale": torch.tensor(SCALE)}

    def embed(tokens: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = text(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state
        return hidden[:, 0] @ matrix, vision(pixel_values=pixels).pooler_output @ proj

    return state, embed


def easynlp(folder: Path, shapes: Shapes = TINY) -> Reference:
    """Save EasyNLP's chinese_clip folder, with the pooler and buffer of their trainer."""
    state, embed = plain_reference(shapes)
    state["bert.embeddings.position_ids"] = torch.arange(shapes.text["max_position_embeddings"])[
        None
    ]

    config = {
        "model_type": "chinese_clip",
        "embed_dim": shapes.width,
        "image_resolution": shapes.vision["image_size"],
        "vision_layers": shapes.vision["num_hidden_layers"],
        "vision_width": shapes.vision["hidden_size"],
        "vision_patch_size": shapes.vision["patch_size"],
        "vocab_size": shapes.text["vocab_size"],
        "text_hidden_act": "gelu",
        "text_hidden_dropout_prob": 0.1,
        "text_attention_probs_dropout_prob": 0.1,
        "text_initializer_range": 0.02,
        **{f"text_{name}": size for name, size in shapes.text.items() if name != "vocab_size"},
    }

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_bytes(vocabulary())
    torch.save(
        {f"chinese_clip.{name}": tensor for name, tensor in state.items()},
        folder / "pytorch_model.bin",
    )
    return folder, embed


def easynlp_first(folder: Path, shapes: Shapes = TINY) -> Reference:
    """Save EasyNLP's first form: RoBERTa and CLIP's image tower, pooled, with linear layers."""
    text = shaken(
        RobertaModel(RobertaConfig(**shapes.text, pad_token_id=0, layer_norm_eps=1e-12)),
        shapes.noise,
    )
    vision = shaken(CLIPVisionModel(CLIPVisionConfig(**shapes.vision)), shapes.noise)

    linears = {
        name: torch.nn.Linear(sizes["hidden_size"], shapes.width)
        for name, sizes in (("text", shapes.text), ("vision", shapes.vision))
    }
    projections = shaken(torch.nn.ModuleDict(linears), shapes.noise)

    inner = getattr(vision, "vision_model", vision)
    state = {f"text_encoder.{name}": tensor for name, tensor in text.state_dict().items()}
    state |= {
        f"vision_encoder.vision_model.{name}": tensor for name, tensor in inner.state_dict().items()
    }
    state |= {
        f"{name.replace('.', '_projection.')}": tensor
        for name, tensor in projections.state_dict().items()
    }
    positions = torch.arange(shapes.text["max_position_embeddings"])[None]
    state |= {
        "logit_scale": torch.tensor([SCALE]),
        "text_encoder.embeddings.position_ids": positions,
    }

    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"text_config": shapes.text, "vision_config": shapes.vision})
    )
    (folder / "vocab.txt").write_bytes(vocabulary())
    torch.save(state, folder / "pytorch_model.bin")

    def embed(tokens: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = text(input_ids=tokens, attention_mask=(tokens != 0).long()).pooler_output
        return projections["text"](pooled), projections["vision"](
            vision(pixel_values=pixels).pooler_output
        )

    return folder, embed


def chinese_clip(folder: Path, shapes: Shapes = TINY, prefix: str = "module.") -> Reference:
    """Save Chinese-CLIP's file with a vocabulary beside it; its BERT has no pooler."""
    state, embed = plain_reference(shapes)
    # The file does not say how many heads there are: they are of width 64.
    kept = {f"{prefix}{name}": tensor for name, tensor in state.items() if "pooler" not in name}
    folder.mkdir()
    (folder / "vocab.txt").write_bytes(vocabulary())
    torch.save(
        {"epoch": 3, "step": 9, "name": "run", "state_dict": kept}, folder / "clip_cn_vit-b-16.pt"
    )
    return folder / "clip_cn_vit-b-16.pt", embed


FORMS = {
    "easynlp": easynlp,
    "huggingface": huggingface,
    "easynlp-first": easynlp_first,
    "chinese-clip": chinese_clip,
}
