"""Miniatures of what others publish one tower at a time: timm's weights, a Hugging Face BERT."""

from pathlib import Path

import timm
import torch
import transformers
from safetensors.torch import save_file

TRUNK = "test_efficientnet"  # timm's own miniature
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "shirt", "shoe", "##s"]


def write_trunk(path: Path) -> None:
    """Write the weights of a timm model."""
    torch.manual_seed(3)
    save_file(timm.create_model(TRUNK).state_dict(), path)


def write_bert(folder: Path) -> None:
    """Write an encoder of two layers with its tokeniser."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
    )
    torch.manual_seed(4)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
