"""Chinese towers, captions and a vocabulary so small that tests share them.

The towers are a BERT of two layers beside a tiny ViT.
"""

import json
from pathlib import Path

from model.config.sections import ModelConfig
from tests.tiny import COLOURS, SIDE, THINGS, WIDTH

COLOUR_WORDS = dict(
    zip(COLOURS, ("红色", "绿色", "蓝色", "黑色", "白色", "黄色", "紫色", "青色"), strict=True)
)
THING_WORDS = dict(zip(THINGS, ("衬衫", "连衣裙", "鞋子", "包包"), strict=True))
ENGLISH = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# English, Chinese, mixed, emoji, empty, overlong, and what tokenisers stumble over.
HARD_CAPTIONS = [
    "red shirt",
    "红色连衣裙",
    "Nike 新款 T恤，2023夏季！",
    "👗🤩🥰🫶 裙子",
    "",
    "   ",
    "红色的连衣裙很好看" * 20,
    "a" * 150,
    "a" * 250,
    "Ünïcode ﬁ Ｆｕｌｌｗｉｄｔｈ ①",
    "\u200b零宽\ufeff",
    "𠀀𪜶 İstanbul ß 한국어 カタカナ",
    "x\u2028y\u3000z",
]
TINY_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
}


def chinese(caption: str) -> str:
    """Translate a caption of `tests.tiny`."""
    colour, thing = caption.split()
    return COLOUR_WORDS[colour] + THING_WORDS[thing]


def vocabulary() -> bytes:
    """Return a vocab.txt of the words above, letters, digits and a few pieces."""
    words = "".join(
        [*COLOUR_WORDS.values(), *THING_WORDS.values(), "新款恤夏季的很好看零宽子裙，！"]
    )
    special = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = ["red", "shirt", "##irt", "nike", "uni", "##code", "aaa", "##aa"]
    tokens = [
        *special,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
        *pieces,
        *dict.fromkeys(words),
    ]
    return "".join(f"{token}\n" for token in tokens).encode()


def tokens_in_vocabulary() -> int:
    """Return how many tokens the vocabulary has."""
    return vocabulary().count(b"\n")


def chinese_architecture(**text: object) -> dict[str, object]:
    """Return the architecture of tiny Chinese towers; ``text`` changes its text tower."""
    return {
        "embed_dim": WIDTH,
        "quick_gelu": True,
        "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {
            "context_length": 16,
            "bert": {"vocab_size": tokens_in_vocabulary(), **TINY_BERT, **text},
        },
    }


def write_chinese_model(folder: Path, **text: object) -> ModelConfig:
    """Write architecture and vocabulary and return the config that names both."""
    path, words = folder / "tiny-chinese-model.json", folder / "vocab.txt"
    path.write_text(json.dumps(chinese_architecture(**text)), encoding="utf-8")
    words.write_bytes(vocabulary())
    return ModelConfig(name=str(path), vocabulary=str(words))
