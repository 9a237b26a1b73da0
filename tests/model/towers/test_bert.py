"""The Chinese text tower is transformers' BERT, [CLS] times a matrix, its tokeniser BERT's."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from model.batches.loading import pair_input
from model.batches.tokens import token_ids, tokenizer_identity
from model.config.sections import ModelConfig
from model.errors import CheckpointError, ConfigError
from model.evaluation.split import evaluate_split
from model.towers.bert import WordPieces, bert_config, build_bert_clip, with_context_length
from model.towers.create import create_towers
from model.towers.folder import load_towers, save_towers
from model.towers.layers import place_parameters
from model.towers.passes import cut_tokens
from model.towers.towers import Towers, encode_texts, encode_tokens
from model.training.loop import train
from model.training.meter import PairFlops
from model.training.optimizer import make_optimizer
from model.training.stage import Callbacks, Stage
from tests.chinese import (
    ENGLISH,
    HARD_CAPTIONS,
    TINY_BERT,
    chinese,
    tokens_in_vocabulary,
    vocabulary,
    write_chinese_model,
)
from tests.tiny import SIDE, TinyData, drawn_jpeg, names, profiled, tiny_stage_config


@pytest.fixture(scope="module")
def chinese_model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return write_chinese_model(tmp_path_factory.mktemp("chinese"))


@pytest.fixture
def chinese_towers(chinese_model: ModelConfig) -> Towers:
    return create_towers(chinese_model, "cpu")


def reference_ids(folder: Path, captions: list[str], length: int) -> list[list[int]]:
    """Return the ids of BERT's first implementation in Python, padded."""
    (folder / "vocab.txt").write_bytes(vocabulary())
    slow = BertTokenizerLegacy(str(folder / "vocab.txt"))
    return [
        slow.encode(text, truncation=True, max_length=length, padding="max_length")
        for text in captions
    ]


@pytest.mark.parametrize("length", [16, 52])
def test_ids_are_those_of_bert_one_by_one(tmp_path: Path, length: int) -> None:
    ours = WordPieces(vocabulary(), length)(HARD_CAPTIONS)
    assert ours.dtype == torch.int64 and ours.shape == (len(HARD_CAPTIONS), length)
    assert ours.tolist() == reference_ids(tmp_path, HARD_CAPTIONS, length)
    assert WordPieces(vocabulary(), length)([]).shape == (0, length)


def test_a_word_of_150_letters_is_unknown_to_bert_and_known_to_chinese_clip() -> None:
    word = "a" * 150
    assert WordPieces(vocabulary(), 16)([word])[0, :3].tolist() == [3, 2, 4]
    assert WordPieces(vocabulary(), 16, longest_word=200)([word])[0, 15] == 4


def test_a_caption_cannot_blank_itself_by_spelling_a_special_token() -> None:
    ids = WordPieces(vocabulary(), 16)(["[PAD] red [SEP] shirt"])[0].tolist()
    assert ids.count(0) == len(ids) - ids.index(4) - 1 and ids.count(4) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "no UTF-8"),
        (b"[PAD]\n[UNK]\n[CLS]\n", r"\[SEP\] missing"),
        (b"[UNK]\n[PAD]\n[CLS]\n[SEP]\n", r"\[PAD\] is not the first line"),
    ],
)
def test_what_is_no_vocabulary_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"vocab.txt: .*{sentence}"):
        WordPieces(content, 16)


def test_the_identity_of_the_tokens_changes_with_vocabulary_and_length() -> None:
    identities = {
        tokenizer_identity(WordPieces(vocabulary() + more, length, word))
        for more, length, word in [
            (b"", 16, 100),
            (b"new\n", 16, 100),
            (b"", 17, 100),
            (b"", 16, 200),
        ]
    }
    assert len(identities) == 4


@torch.inference_mode()
def test_text_features_are_the_hidden_state_of_cls_times_a_matrix(chinese_towers: Towers) -> None:
    tower = chinese_towers.clip.eval().text
    slow = BertModel(
        BertConfig(vocab_size=tokens_in_vocabulary(), **TINY_BERT), add_pooling_layer=False
    ).eval()
    slow.load_state_dict(tower.transformer.state_dict())
    tokens = chinese_towers.tokenizer(HARD_CAPTIONS)
    hidden = slow(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(hidden @ tower.proj.weight.T, dim=-1)
    torch.testing.assert_close(
        encode_texts(chinese_towers, HARD_CAPTIONS), expected, rtol=0, atol=1e-6
    )


@torch.inference_mode()
def test_padding_is_cut_off_and_changes_nothing(chinese_towers: Towers) -> None:
    chinese_towers.clip.eval()
    tokens = chinese_towers.tokenizer(["红色", "", "绿色连衣裙"])
    cut, _ = cut_tokens(chinese_towers.clip, tokens)
    assert cut[0].shape == (3, 7)
    whole = torch.nn.functional.normalize(chinese_towers.clip.encode_text(tokens), dim=-1)
    torch.testing.assert_close(encode_tokens(chinese_towers, tokens), whole, rtol=0, atol=1e-6)


def test_chinese_towers_come_back_from_disk_with_their_vocabulary(
    chinese_towers: Towers, tmp_path: Path
) -> None:
    save_towers(chinese_towers, tmp_path / "model")
    assert "vocab.txt" in names(tmp_path / "model")
    read = load_towers(tmp_path / "model", "cpu")
    assert read.files["vocab.txt"] == vocabulary() and read.config == chinese_towers.config
    for towers in (read, chinese_towers):
        towers.clip.eval()
    with torch.inference_mode():
        assert torch.equal(
            encode_texts(read, HARD_CAPTIONS), encode_texts(chinese_towers, HARD_CAPTIONS)
        )
    whole = (tmp_path / "model" / "vocab.txt").read_bytes()
    (tmp_path / "model" / "vocab.txt").write_bytes(whole.replace(b"red", b"red!"))
    with pytest.raises(CheckpointError, match=r"vocab\.txt: missing or damaged"):
        load_towers(tmp_path / "model", "cpu")


def test_weights_are_a_pure_function_of_the_seed(chinese_model: ModelConfig) -> None:
    one, two, other = (
        create_towers(chinese_model, "cpu", seed=seed).clip.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["text.proj.weight"], other["text.proj.weight"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocabulary": None}, r"model\.vocabulary is null, but a BERT text tower needs one"),
        ({"vocabulary": "nowhere/vocab.txt"}, r"'nowhere/vocab\.txt': cannot be read"),
        (
            {"context_length": 65},
            r"model\.context_length is 65; this text tower reads 3 to 64 tokens",
        ),
        ({"name": "ViT-B-32"}, "this text tower has its own tokeniser"),
        (
            {"name": "ViT-B-32", "vocabulary": None, "context_length": 9},
            "only BERT reads as many tokens",
        ),
    ],
)
def test_an_impossible_text_tower_is_refused(
    chinese_model: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    sentence: str,
) -> None:
    monkeypatch.setattr("model.towers.create._build", lambda name, device: None)
    with pytest.raises(ConfigError, match=sentence):
        create_towers(chinese_model.model_copy(update=changes), "cpu")


def test_a_vocabulary_larger_than_the_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokens, but the text tower has embeddings for 50"):
        create_towers(write_chinese_model(tmp_path, vocab_size=50), "cpu")


def test_an_architecture_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="open_clip cannot build tiny-chinese-model"):
        create_towers(write_chinese_model(tmp_path, num_attention_heads=5), "cpu")


@pytest.mark.parametrize(("kind", "most"), [("bert", 512), ("roberta", 511)])
def test_what_an_architecture_leaves_out_is_transformers_default(kind: str, most: int) -> None:
    architecture = {"text_cfg": {"bert": {"model_type": kind, "vocab_size": 90}}}
    config = bert_config(architecture)
    assert (config.vocab_size, config.hidden_size, config.pad_token_id) == (90, 768, 0)
    assert with_context_length(architecture, most)["text_cfg"]["context_length"] == most
    with pytest.raises(ConfigError, match=f"this text tower reads 3 to {most} tokens"):
        with_context_length(architecture, most + 1)


def test_layers_of_the_text_tower_have_their_places(chinese_towers: Towers) -> None:
    places = place_parameters(chinese_towers.clip)
    layer = "text.transformer.encoder.layer"
    above = {
        "text.transformer.embeddings.word_embeddings.weight": 3,
        "text.transformer.embeddings.LayerNorm.weight": 3,
        f"{layer}.0.attention.self.query.weight": 2,
        f"{layer}.1.output.dense.bias": 1,
        "text.proj.weight": 0,
    }
    assert {name: places[name] for name in above} == {
        name: ("text", layers) for name, layers in above.items()
    }


def test_muon_takes_the_matrices_of_the_layers_and_neither_embeddings_nor_projection(
    chinese_towers: Towers,
) -> None:
    optimizer = make_optimizer(
        chinese_towers.clip, torch.nn.Module(), tiny_stage_config(optimizer="muon")
    )
    matrices = {
        id(p) for group in optimizer.param_groups if group["is_matrix"] for p in group["params"]
    }
    chosen = {name for name, p in chinese_towers.clip.named_parameters() if id(p) in matrices}
    text = {name for name in chosen if name.startswith("text.")}
    assert len(text) == 2 * 6 and all(
        ".layer." in name and name.endswith("weight") for name in text
    )


@pytest.mark.parametrize("kind", ["checkpointed", "plain"])
def test_checkpointed_layers_give_the_same_gradients(chinese_towers: Towers, kind: str) -> None:
    clip = chinese_towers.clip.train()
    tokens = chinese_towers.tokenizer(HARD_CAPTIONS[:4])
    passes = list[int]()
    clip.text.transformer.encoder.layer[0].intermediate.register_forward_hook(
        lambda *_: passes.append(1)
    )

    def gradient() -> torch.Tensor:
        torch.manual_seed(3)
        clip.zero_grad()
        clip.encode_text(tokens).square().sum().backward()
        return torch.as_tensor(clip.text.transformer.embeddings.word_embeddings.weight.grad).clone()

    plain = gradient()
    clip.set_grad_checkpointing(kind == "checkpointed")
    torch.testing.assert_close(gradient(), plain)
    assert len(passes) == (3 if kind == "checkpointed" else 2)


@pytest.fixture(scope="module")
def chinese_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Return the tiny pairs with Chinese captions."""
    folder = tmp_path_factory.mktemp("pairs")
    train_pairs = [
        (chinese(caption), drawn_jpeg(caption, seed)) for seed in (1, 2) for caption in ENGLISH
    ]
    valid_pairs = [(chinese(caption), drawn_jpeg(caption, 3)) for caption in ENGLISH]
    return TinyData(
        profiled(folder / "train.tsv", train_pairs), profiled(folder / "valid.tsv", valid_pairs)
    )


EVERY_MEANS = {
    "micro_batch_size": 8,
    "freeze": "image",
    "ema_decay": 0.9,
    "distill_weight": 0.1,
    "interpolation": (0.5,),
    "checkpoint_activations": True,
    "layer_decay": 0.9,
    "optimizer": "muon",
    "keyword_share": 0.3,
}


@pytest.mark.parametrize(
    "changes", [{"epochs": 6}, {"epochs": 6, **EVERY_MEANS}], ids=["plain", "every means"]
)
def test_chinese_towers_learn_and_come_back(
    tmp_path: Path, chinese_data: TinyData, chinese_towers: Towers, changes: dict[str, object]
) -> None:
    pairs, valid = (
        pair_input(chinese_towers.input_spec, i)
        for i in (chinese_data.train_index(), chinese_data.valid_index())
    )

    def validate(towers: Towers) -> dict[str, float]:
        return evaluate_split(towers, valid, 32, 32, workers=0).metrics()

    before = validate(chinese_towers)["mean_recall"]
    stage = Stage(tiny_stage_config(**changes), pairs, validate, tmp_path, 0, 0)
    state = train(chinese_towers, stage, Callbacks())
    best = load_towers(tmp_path / state.best_folder, "cpu")
    assert validate(best)["mean_recall"] == pytest.approx(state.best_mean_recall)
    assert state.best_mean_recall > before + (0.03 if len(changes) > 1 else 0.1)


def test_tokens_of_chinese_captions_are_cached_as_the_tokeniser_gives_them(
    tmp_path: Path, chinese_data: TinyData, chinese_towers: Towers
) -> None:
    index = chinese_data.train_index()
    made = list[int]()
    for _ in range(2):
        ids = token_ids(index, chinese_towers.tokenizer, tmp_path, made.append)
        assert ids.dtype == "uint16"
        assert ids.tolist() == chinese_towers.tokenizer(list(index.captions())).tolist()
    assert sum(made) == len(index)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("roberta-vit-b-32", 189_919),
        ("roberta-vit-b-16", 188_262),
        ("roberta-vit-l-14", 406_233),
        ("roberta-rn50", 76_989),
    ],
)
def test_the_published_sizes_have_the_parameters_of_the_originals(
    name: str, parameters: int
) -> None:
    architecture = json.loads(Path(f"configs/models/{name}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        clip = build_bert_clip(architecture)
    assert sum(p.numel() for p in clip.parameters()) // 1000 == parameters


def test_flops_of_a_bert_tower_are_counted_by_its_own_sizes(chinese_towers: Towers) -> None:
    config, bert = chinese_towers.config["model_cfg"], TINY_BERT
    tokens, width = 16, bert["hidden_size"]
    block = tokens * (4 * width**2 + 2 * width * bert["intermediate_size"] + 2 * tokens * width)
    text = bert["num_hidden_layers"] * block + width * config["embed_dim"]
    image = (PairFlops(chinese_towers)(tokens) or 0) / 6 - text
    patches = (SIDE // 8) ** 2
    wide = config["vision_cfg"]["width"]
    blocks = (patches + 1) * (12 * wide**2 + 2 * (patches + 1) * wide)
    assert image == patches * 3 * 64 * wide + blocks + wide * config["embed_dim"]
