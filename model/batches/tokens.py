"""Captions as token ids, tokenised once for a data version and not at every step.

The ids are those of the towers' tokeniser, id by id. Making them costs about 0.15 ms a caption of
six words, once: a batch of 256 comes out of the cache in 0.04 ms, and would take the interpreter's
lock for 40 ms without. 77 tokens a caption are 154 bytes on disk (308 for vocabularies of more than
65,536 ids); memory stays flat.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.pairs.index import PairIndex
from model.storage.cache import Layout, cached_array

Tokenizer = Callable[[list[str]], torch.Tensor]
Tokens = npt.NDArray[Any]  # uint16 or int32

CAPTIONS_A_BLOCK = 2048
# Whose code decides which ids a caption gets.
TOKENISING_PACKAGES = ("open_clip_torch", "transformers", "tokenizers", "ftfy", "regex")


def token_ids(
    index: PairIndex,
    tokenizer: Tokenizer,
    folder: Path | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Tokens:
    """Return the token ids [N, L] of an index's captions.

    They are mapped from a cache in the folder or, without one, in memory. ``on_rows`` counts the
    captions that had to be tokenised.

    Raises:
        DataError: a caption is not the one that was profiled.
        CheckpointError: the cache cannot be written.
    """
    dtype = np.uint16 if max(_vocabulary(tokenizer).values()) < 2**16 else np.int32
    key = hashlib.sha256(f"{index.digest()} {tokenizer_identity(tokenizer)}".encode()).hexdigest()
    layout = Layout("tokens", key, (len(index), read_tokens(tokenizer)), dtype)

    def blocks() -> Iterator[Tokens]:
        captions = iter(index.captions())
        while block := list(islice(captions, CAPTIONS_A_BLOCK)):
            yield tokenizer(block).numpy().astype(dtype)
            on_rows(len(block))

    return (
        np.concatenate(list(blocks())) if folder is None else cached_array(folder, layout, blocks)
    )


def token_counts(tokenizer: Tokenizer, captions: list[str]) -> list[int]:
    """Count the tokens of whole captions, however few of them the text tower reads."""
    inner = _inner(tokenizer)
    if hasattr(inner, "no_truncation"):
        whole = type(inner).from_str(inner.to_str())
        whole.no_truncation()
        whole.no_padding()
        return [len(whole.encode(caption).ids) for caption in captions]

    # open_clip's own tokeniser adds the marks of start and end when it pads.
    if not hasattr(inner, "get_vocab"):
        return [len(inner.encode(caption)) + 2 for caption in captions]
    clean = getattr(tokenizer, "clean_fn", None) or str
    return [len(inner.encode(clean(caption), truncation=False)) for caption in captions]


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 (hex) of what decides the ids.

    That is vocabulary, settings, and the versions of the code.
    """
    attributes = vars(tokenizer)
    # Normalisation and merges of the fast kind.
    backend = getattr(_inner(tokenizer), "backend_tokenizer", None)

    whole = {
        "settings": {
            name: value for name, value in attributes.items() if isinstance(value, str | int | None)
        },
        "functions": {
            name: getattr(attributes.get(name), "__name__", None)
            for name in ("clean_fn", "reduction_fn")
        },
        "vocabulary": sorted(_vocabulary(tokenizer).items()),
        "backend": backend.to_str() if backend is not None else None,
        "versions": {name: version(name) for name in TOKENISING_PACKAGES},
        "context_length": read_tokens(tokenizer),
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _inner(tokenizer: Tokenizer) -> Any:
    """Return the Hugging Face tokeniser inside open_clip's, or open_clip's own."""
    return getattr(tokenizer, "tokenizer", tokenizer)


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    inner = _inner(tokenizer)
    vocabulary: dict[str, int] = inner.get_vocab() if hasattr(inner, "get_vocab") else inner.encoder
    return vocabulary


def read_tokens(tokenizer: Tokenizer) -> int:
    """Count the tokens of a caption that the text tower reads, marks included."""
    return tokenizer(["length"]).shape[1]
