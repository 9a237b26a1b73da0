"""The text tower of Chinese models: BERT beside an open_clip image tower, and its WordPiece
tokeniser.

In open_clip's words the text tower's config is ``text_cfg`` with ``bert`` (transformers'
BertConfig, field by field) in place of width, heads and layers. The text feature is the hidden
state of [CLS] times a matrix. With ``model_type`` ``roberta`` in ``bert`` positions count from 1,
and with ``projection_bias`` beside ``text_cfg`` both towers' pooled outputs pass through linear
layers with bias: EasyNLP's first form. transformers computes the tower from its config alone
(DECISIONS 32); no network is asked. Parameters are named as those of open_clip's HFTextEncoder are.
Importing transformers' BERT takes about two seconds.

Shapes: B batch, L tokens, E width of a tower, D embedding.
"""

from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.errors import StrictDataclassError
from open_clip.model import set_model_preprocess_cfg
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from model.errors import ConfigError

VOCABULARY_FILE = "vocab.txt"
SPECIAL = PADDING, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
# Characters; BERT makes longer words [UNK], Chinese-CLIP's own code those of more than 200.
DEFAULT_LONGEST_WORD = 100
DEFAULT_CONTEXT = 52  # Chinese-CLIP's
# What stands in for the text tower while open_clip builds the image tower.
STAND_IN = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


def is_bert(model_cfg: dict[str, Any]) -> bool:
    """Return whether an architecture has a text tower of this kind."""
    return "bert" in model_cfg["text_cfg"]


def context_length(model_cfg: dict[str, Any]) -> int:
    """Return how many tokens L of a caption the text tower reads."""
    return int(model_cfg["text_cfg"].get("context_length", DEFAULT_CONTEXT))


def bert_config(model_cfg: dict[str, Any]) -> BertConfig | RobertaConfig:
    """Return transformers' config of a text tower, its defaults where the architecture has none.

    Raises:
        KeyError, TypeError, ValueError: the fields make no BERT.
    """
    # RoBERTa pads with 1 by default; [PAD] is the first line of our vocabularies.
    fields: dict[str, Any] = {"pad_token_id": 0, **model_cfg["text_cfg"]["bert"]}
    kinds: dict[str, type[BertConfig | RobertaConfig]] = {
        "bert": BertConfig,
        "roberta": RobertaConfig,
    }
    try:
        return kinds[fields.pop("model_type", "bert")](**fields)
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from None


def build_bert_clip(
    model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any] | None = None
) -> open_clip.CustomTextCLIP:
    """Build the towers of an architecture with random weights on the default device.

    Raises:
        KeyError, TypeError, ValueError: the architecture is none.
    """
    others = dict(model_cfg)
    has_bias = bool(others.pop("projection_bias", False))
    clip = open_clip.CustomTextCLIP(**others | {"text_cfg": STAND_IN})

    # The stand-in gives way to BERT.
    config = bert_config(model_cfg)
    clip.text = BertTower(config, model_cfg["embed_dim"], has_bias)
    clip.context_length, clip.vocab_size = context_length(model_cfg), config.vocab_size
    if has_bias:
        clip.visual = HeadedImageTower(clip.visual, model_cfg["embed_dim"])

    defaults = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    set_model_preprocess_cfg(clip, defaults | (preprocess_cfg or {}))
    return clip


class BertTower(torch.nn.Module):
    """BERT with the projection of its [CLS] hidden state.

    Where the projection has a bias, it is the pooled output that is projected.
    """

    def __init__(self, config: BertConfig | RobertaConfig, embed_dim: int, has_bias: bool) -> None:
        """Take transformers' config, the embedding's width, and if the projection has a bias."""
        super().__init__()
        self.config: Any = config
        kind: Any = RobertaModel if isinstance(config, RobertaConfig) else BertModel
        self.transformer = kind(config, add_pooling_layer=has_bias)
        self.proj = torch.nn.Linear(config.hidden_size, embed_dim, bias=has_bias)
        torch.nn.init.normal_(self.proj.weight, std=config.hidden_size**-0.5)

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Return features [B, D] of token ids; nothing depends on padding."""
        return linear(self.pool(tokens_BL), self.proj.weight, self.proj.bias)

    def pool(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Return the hidden state of [CLS] or the pooled output, [B, E], before the projection."""
        output = self.transformer(
            input_ids=tokens_BL, attention_mask=tokens_BL.ne(self.config.pad_token_id).long()
        )
        pooled_BE: torch.Tensor = (
            output.last_hidden_state[:, 0] if output.pooler_output is None else output.pooler_output
        )
        return pooled_BE

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each layer's activations again in the backward pass, or keep them."""
        for layer in self.transformer.encoder.layer:
            layer.gradient_checkpointing = enable
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


class HeadedImageTower(torch.nn.Module):
    """A vision transformer of open_clip whose pooled output is projected with a bias."""

    def __init__(self, trunk: Any, embed_dim: int) -> None:
        """Take the vision transformer, whose own projection goes, and the embedding's width."""
        super().__init__()
        self.image_size, trunk.proj = trunk.image_size, None
        self.trunk = trunk
        self.head = torch.nn.Linear(trunk.ln_post.normalized_shape[0], embed_dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features [B, D] of normalised pixels [B, 3, side, side]."""
        features: torch.Tensor = self.head(self.trunk(pixels))
        return features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block's activations again in the backward pass, or keep them."""
        self.trunk.set_grad_checkpointing(enable)


class WordPieces:
    """BERT's tokeniser: lower case, a word a Chinese character, word pieces; [CLS] … [SEP].

    A caption is cut or padded to L ids. One that spells a special token means its letters: it
    cannot blank itself by ``[PAD]``.
    """

    def __init__(
        self, vocabulary: bytes, context_length: int, longest_word: int = DEFAULT_LONGEST_WORD
    ) -> None:
        """Take the bytes of a ``vocab.txt``, a token a line.

        Raises:
            ConfigError: it is no UTF-8, or a special token is missing or [PAD] is not its first
            line.
        """
        try:
            text = vocabulary.decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
        except UnicodeDecodeError:
            raise ConfigError(
                f"{VOCABULARY_FILE}: no UTF-8, so it is no vocabulary; fetch it again"
            ) from None
        ids = {token: number for number, token in enumerate(text.split("\n"))}
        missing = ", ".join(token for token in SPECIAL if token not in ids)
        if missing or ids[PADDING] != 0:
            what = f"{missing} missing" if missing else f"{PADDING} is not the first line"
            raise ConfigError(
                f"{VOCABULARY_FILE}: no vocabulary of BERT, {what}; take the model's own"
            )

        self.context_length = context_length
        pieces = WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=longest_word)
        self.tokenizer = Tokenizer(pieces)
        self.tokenizer.normalizer = BertNormalizer(lowercase=True)
        self.tokenizer.pre_tokenizer = BertPreTokenizer()
        self.tokenizer.post_processor = BertProcessing((END, ids[END]), (START, ids[START]))
        self.tokenizer.enable_truncation(context_length)
        self.tokenizer.enable_padding(length=context_length)

        # What the identity of cached tokens hangs on.
        self.definition = self.tokenizer.to_str()

    def __call__(self, captions: list[str]) -> torch.Tensor:
        """Return the token ids int64 [B, L] of captions."""
        ids = [self.tokenizer.encode(caption).ids for caption in captions]
        return torch.tensor(ids, dtype=torch.int64).view(len(captions), self.context_length)


def make_word_pieces(model_cfg: dict[str, Any], vocabulary: bytes) -> WordPieces:
    """Return the tokeniser of an architecture.

    Raises:
        ConfigError: the vocabulary is none, or has more tokens than the text tower has embeddings.
    """
    longest_word = int(model_cfg["text_cfg"].get("longest_word", DEFAULT_LONGEST_WORD))
    made = WordPieces(vocabulary, context_length(model_cfg), longest_word)

    tokens, rows = made.tokenizer.get_vocab_size(), bert_config(model_cfg).vocab_size
    if tokens > rows:
        raise ConfigError(
            f"{VOCABULARY_FILE}: {tokens:,} tokens, but the text tower has embeddings for "
            f"{rows:,}; take its own"
        )
    return made


def read_vocabulary(model_cfg: dict[str, Any], path: str | None) -> dict[str, bytes]:
    """Return the files beside the weights of an architecture, by name: the vocabulary of a BERT.

    Another tokeniser has none.

    Raises:
        ConfigError: the architecture needs a vocabulary and none is named, or there is no such
        file, or it needs none.
    """
    if not is_bert(model_cfg):
        if path is None:
            return {}
        raise ConfigError(
            f"model.vocabulary is '{path}', but this text tower has its own tokeniser; "
            "set it to null"
        )

    if path is None:
        raise ConfigError(
            "model.vocabulary is null, but a BERT text tower needs one: "
            "name the vocab.txt of the model's weights"
        )
    try:
        return {VOCABULARY_FILE: Path(path).read_bytes()}
    except OSError as error:
        raise ConfigError(
            f"model.vocabulary is '{path}': cannot be read ({error.strerror}); name a vocab.txt"
        ) from None


def with_context_length(model_cfg: dict[str, Any], length: int | None) -> dict[str, Any]:
    """Return an architecture whose text tower reads so many tokens; None leaves it as it is.

    Raises:
        ConfigError: the text tower has another number of positions.
    """
    if length is None:
        return model_cfg
    if not is_bert(model_cfg):
        raise ConfigError(
            f"model.context_length is {length}, but only BERT reads as many tokens as one likes; "
            "set it to null"
        )

    # RoBERTa's first position is that of padding.
    config = bert_config(model_cfg)
    most = config.max_position_embeddings - isinstance(config, RobertaConfig)
    if not 3 <= length <= most:
        raise ConfigError(
            f"model.context_length is {length}; this text tower reads 3 to {most} tokens"
        )
    return model_cfg | {"text_cfg": model_cfg["text_cfg"] | {"context_length": length}}
