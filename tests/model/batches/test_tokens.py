"""Cached ids are open_clip's own, for any caption, and belong to one tokeniser and its captions."""

import json
import os
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from model.batches.tokens import read_tokens, token_counts, token_ids, tokenizer_identity
from model.config.sections import DataConfig
from model.pairs.index import PairIndex, PairSource, index_pairs
from model.pairs.profile import profile_files, write_profile
from model.towers.bert import WordPieces
from tests.chinese import vocabulary
from tests.tiny import TinyData, drawn_jpeg, profiled

HOSTILE = [
    "a" * 3000,
    "<start_of_text> dress <end_of_text>",
    "caf\u00e9 cafe\u0301 \ufb01ne \u212bngstr\u00f6m",
    "\u4e2d\u6587\u8fde\u8863\u88d9 \u8fde\u8863\u88d9",
    "\U0001f457\u200d\U0001f9f5 \U0001f1e9\U0001f1ea",
    "\u202eesrever\u202c \u200b\ufeff zero",
    "&amp;amp;lt;b&gt; &#x1F457;",
    "line\u2028separator\u0085next\x0bvt",
    "na\ud7ff\ue000 \U0010ffff",
    "'s 'LL it's 3.14 1e5 =cmd()",
    "\u0130stanbul \u1e9e \u01c5",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
]


def index_of(folder: Path, captions: list[str]) -> PairIndex:
    image = drawn_jpeg("red shirt", 1)
    return index_pairs([profiled(folder / "train.tsv", [(caption, image) for caption in captions])])


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    """Return a WordPiece tokeniser like that of the Chinese text tower, of a few words."""
    folder = tmp_path_factory.mktemp("wordpiece")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "dress",
        "##es",
        "\u8fde",
        "\u8863",
        "\u88d9",
    ]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return HFTokenizer(str(folder), context_length=12)


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("context_length", [5, 77])
def test_hostile_captions_get_the_tokeniser_s_own_ids(
    tmp_path: Path, context_length: int, is_cached: bool
) -> None:
    tokenizer = SimpleTokenizer(context_length=context_length)
    index = index_of(tmp_path, HOSTILE)
    tokens = token_ids(index, tokenizer, tmp_path / "cache" if is_cached else None)
    assert tokens.dtype == np.uint16 and tokens.shape == (len(HOSTILE), context_length)
    assert torch.equal(torch.from_numpy(tokens.astype(np.int64)), tokenizer(HOSTILE))


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=5
    )
)
@settings(deadline=None, max_examples=40)
def test_any_caption_that_is_accepted_gets_the_tokeniser_s_own_ids(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str]
) -> None:
    captions = [caption + "x" for caption in captions]
    folder = tmp_path_factory.mktemp("any")
    tokens = token_ids(index_of(folder, captions), TOKENIZER, folder)
    assert torch.equal(torch.from_numpy(tokens.astype(np.int64)), TOKENIZER(captions))


TOKENIZER = SimpleTokenizer(context_length=20)


def test_a_wordpiece_tokeniser_is_cached_the_same_way(tmp_path: Path, chinese: HFTokenizer) -> None:
    captions = ["\u8fde\u8863\u88d9 dresses", "dress"]
    tokens = token_ids(index_of(tmp_path, captions), chinese, tmp_path / "cache")
    assert tokens[0, :7].tolist() == [2, 7, 8, 9, 5, 6, 3]
    assert torch.equal(torch.from_numpy(tokens.astype(np.int64)), chinese(captions))


def test_ids_that_do_not_fit_into_16_bits_keep_their_value(tmp_path: Path) -> None:
    tokenizer = SimpleTokenizer(
        context_length=8, additional_special_tokens=[f"<{n}>" for n in range(20_000)]
    )
    tokens = token_ids(index_of(tmp_path, ["<19999> dress"]), tokenizer, tmp_path / "cache")
    assert tokens.dtype == np.int32 and tokens.max() > 2**16
    assert torch.equal(torch.from_numpy(tokens.astype(np.int64)), tokenizer(["<19999> dress"]))


def test_a_tokeniser_of_other_settings_or_another_vocabulary_is_another(
    chinese: HFTokenizer, tmp_path: Path
) -> None:
    different = [
        SimpleTokenizer(context_length=20),
        SimpleTokenizer(context_length=21),
        SimpleTokenizer(context_length=20, clean="whitespace"),
        SimpleTokenizer(context_length=20, additional_special_tokens=["<a>"]),
        chinese,
        HFTokenizer(chinese.tokenizer.name_or_path, context_length=12, strip_sep_token=True),
    ]
    assert len({tokenizer_identity(tokenizer) for tokenizer in different}) == len(different)
    used = SimpleTokenizer(context_length=20)
    used(["a caption that warms its own cache"])
    assert tokenizer_identity(used) == tokenizer_identity(different[0])


def test_another_version_of_open_clip_tokenises_anew(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, made = tiny_data.valid_index(), list[int]()
    token_ids(index, TOKENIZER, tmp_path, made.append)
    token_ids(index, TOKENIZER, tmp_path, made.append)
    assert made == [32]
    monkeypatch.setattr("model.batches.tokens.version", lambda name: "99.0")
    token_ids(index, TOKENIZER, tmp_path, made.append)
    assert made == [32, 32]


@pytest.mark.real
def test_real_captions_get_open_clip_s_ids(tmp_path: Path) -> None:
    tsv = Path(os.environ["REAL_PAIRS"]) / "fashion-products" / "test.tsv"
    files = profile_files(tmp_path, "test")
    write_profile(tsv, files, DataConfig(), processes=1)
    index, tokenizer = (
        index_pairs([PairSource(tsv, files.table)]),
        open_clip.get_tokenizer("ViT-B-32"),
    )
    tokens = token_ids(index, tokenizer, tmp_path)
    assert tokens.shape == (1000, 77)
    assert torch.equal(torch.from_numpy(tokens.astype(np.int64)), tokenizer(list(index.captions())))


@pytest.mark.parametrize("caption", ["red dress", "", "连衣裙", "a" * 3000, *HOSTILE])
def test_tokens_are_counted_beyond_what_is_read(caption: str) -> None:
    clip, pieces = SimpleTokenizer(context_length=16), WordPieces(vocabulary(), 16)
    for tokenizer, padding in ((clip, 0), (pieces, 0)):
        (count,) = token_counts(tokenizer, [caption])
        ids = tokenizer([caption])[0]
        assert read_tokens(tokenizer) == 16
        assert min(count, 16) == int((ids != padding).sum()) or padding in ids[:count].tolist()
    assert token_counts(clip, ["red dress"]) == [4]
    assert token_counts(clip, ["a b " * 50]) == [102] and token_counts(pieces, ["红" * 30]) == [32]
