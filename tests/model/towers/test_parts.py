"""Towers of any make stand beside each other: loaded, saved, resized, refused in a sentence."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from model.config.sections import ModelConfig
from model.errors import CheckpointError, ConfigError
from model.towers.base import base_towers
from model.towers.folder import load_towers, save_towers
from model.towers.passes import image_trunk, text_trunk
from model.towers.towers import Towers, encode_images, encode_texts, normalise, resolve_precision
from model.zoo.importing import import_model
from model.zoo.published import Given
from tests.joined import TRUNK, write_bert, write_trunk
from tests.published import clip_architecture, write_open_clip

CAPTIONS = ["red shirt", "green shoes", "a blue one that has more words than the others"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of a timm model, a Hugging Face BERT, and a shelf with a CLIP."""
    home = tmp_path_factory.mktemp("published")
    write_trunk(home / "trunk.safetensors")
    write_bert(home / "bert")
    write_open_clip(home / "clip", clip_architecture(False))
    import_model(home / "clip", home / "shelf/tiny-clip", Given())
    return home


def join(home: Path, image: dict[str, Any], text: dict[str, Any], **model: Any) -> Towers:
    config = ModelConfig.model_validate({"image_tower": image, "text_tower": text, **model})
    return base_towers(config, home / "shelf", "cpu", "fp32", 0)


def own(home: Path, **changes: Any) -> Towers:
    image = {"name": TRUNK, "pretrained": str(home / "trunk.safetensors")}
    return join(home, image, {"pretrained": str(home / "bert"), **changes}, embed_dim=8)


def embeddings(towers: Towers) -> tuple[torch.Tensor, torch.Tensor]:
    towers.clip.eval()
    side = towers.image_size
    images = torch.randint(
        0, 256, (3, 3, side, side), generator=torch.Generator().manual_seed(1)
    ).byte()
    with torch.no_grad():
        return encode_images(towers, images), encode_texts(towers, CAPTIONS)


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_both_trunks_compute_what_their_libraries_do(published: Path, pooling: str) -> None:
    towers = own(published, pooling=pooling)
    embeddings(towers)
    images = torch.randint(0, 256, (2, 3, towers.image_size, towers.image_size)).byte()
    theirs = timm.create_model(TRUNK).eval()
    theirs.load_state_dict(load_file(published / "trunk.safetensors"))
    theirs.reset_classifier(0)
    pixels = normalise(towers, images)
    with torch.no_grad():
        torch.testing.assert_close(image_trunk(towers.clip, pixels), theirs(pixels))

    bert = transformers.BertModel.from_pretrained(published / "bert").eval()
    reader = transformers.AutoTokenizer.from_pretrained(published / "bert")
    fed = reader("green shoes", return_tensors="pt")
    with torch.no_grad():
        output = bert(**fed)
        ours = text_trunk(towers.clip, towers.tokenizer(["green shoes"]))
    states = output.last_hidden_state
    wanted = {"cls": states[:, 0], "mean": states.mean(dim=1), "pooler": output.pooler_output}
    torch.testing.assert_close(ours, wanted[pooling])


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta"])
def test_robertas_positions_and_padding_are_its_own(
    published: Path, tmp_path: Path, kind: str
) -> None:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=10,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=14,
    )
    encoder = getattr(transformers, f"{kind}Model")(config).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "red": 4, "shirt": 5}
    reader = Tokenizer(WordLevel(words, unk_token="<unk>"))
    reader.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=reader, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path / "encoder")

    towers = own(published, pretrained=str(tmp_path / "encoder"))
    tokens = towers.tokenizer(["red shirt"])
    assert tokens.tolist() == [[4, 5, *[1] * 10]], "12 of 14 positions are left beside padding's"
    embeddings(towers)
    with torch.no_grad():
        states = encoder(tokens[:, :2]).last_hidden_state
        torch.testing.assert_close(text_trunk(towers.clip, tokens), states.mean(dim=1))


def test_an_encoder_of_masked_words_is_read_and_has_no_pooler_to_take(
    published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published / "bert", tmp_path / "bert")
    encoder = transformers.BertModel.from_pretrained(published / "bert")
    masked = transformers.BertForMaskedLM(encoder.config)
    masked.bert.load_state_dict(encoder.state_dict(), strict=False)
    masked.save_pretrained(tmp_path / "bert")
    again = own(published, pretrained=str(tmp_path / "bert"))
    assert torch.equal(embeddings(again)[1], embeddings(own(published))[1])
    with pytest.raises(ConfigError, match=r"2 missing \(text.transformer.pooler.dense.bias"):
        own(published, pretrained=str(tmp_path / "bert"), pooling="pooler")


def test_a_joined_model_is_saved_and_read_with_the_same_bits_and_no_hub(
    published: Path, tmp_path: Path
) -> None:
    towers = own(published, head="mlp")
    save_towers(towers, tmp_path / "saved")
    again = load_towers(tmp_path / "saved", "cpu")
    assert all(map(torch.equal, embeddings(towers), embeddings(again)))
    assert {"tokenizer.json", "config.json"} <= again.files.keys()

    # open_clip's own loader reads the folder, too.
    theirs = open_clip.create_model(
        f"local-dir:{tmp_path / 'saved'}",
        text_cfg=again.config["model_cfg"]["text_cfg"] | {"hf_model_name": str(tmp_path / "saved")},
    )
    assert theirs.state_dict().keys() == again.clip.state_dict().keys()


def test_the_heads_are_drawn_from_the_seed_and_a_trunk_without_weights_with_a_warning(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        one, other = own(published), own(published)
    assert all(map(torch.equal, embeddings(one), embeddings(other)))
    assert "its projection is drawn from seed 0" in caplog.text and "random" not in caplog.text
    join(published, {"name": TRUNK}, {"name": str(published / "bert")})
    assert "image tower: random weights, drawn from seed 0" in caplog.text
    assert "text tower: random weights, drawn from seed 0" in caplog.text


def test_towers_are_taken_out_of_imported_models(published: Path) -> None:
    clip = load_towers(published / "shelf/tiny-clip", "cpu")
    image, text = embeddings(clip)
    mixed = join(published, {"pretrained": "tiny-clip"}, {"pretrained": str(published / "bert")})
    assert torch.equal(embeddings(mixed)[0], image)
    mixed = join(
        *(published, {"name": TRUNK, "pretrained": str(published / "trunk.safetensors")}),
        {"pretrained": "tiny-clip"},
    )
    torch.testing.assert_close(embeddings(mixed)[1], text)
    assert mixed.embed_dim == clip.embed_dim


def test_an_image_tower_has_its_own_resolution_mean_and_std(published: Path) -> None:
    image = {
        "name": TRUNK,
        "pretrained": str(published / "trunk.safetensors"),
        "image_size": 48,
        "mean": [0.1, 0.2, 0.3],
    }
    towers = join(published, image, {"pretrained": str(published / "bert"), "context_length": 12})
    assert towers.image_size == 48 and list(towers.clip.visual.image_mean) == [0.1, 0.2, 0.3]
    assert towers.tokenizer(["red"]).shape == (1, 12)


def test_an_efficientnet_of_the_older_port_is_read(published: Path, tmp_path: Path) -> None:
    weights = timm.create_model(TRUNK).state_dict()
    renamed = {
        f"_{name}" if number == 0 else f"_{number}": value
        for number, (name, value) in enumerate(weights.items())
    }
    torch.save(renamed, tmp_path / "old.pth")
    text = {"pretrained": str(published / "bert")}
    towers = join(published, {"name": TRUNK, "pretrained": str(tmp_path / "old.pth")}, text)
    ours = towers.clip.visual.trunk.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("image", "text", "sentence"),
    [
        ({"name": "efficientnet_b00"}, {}, r"neither timm nor open_clip knows it; did you mean"),
        ({"name": TRUNK, "pretrained": "no-tag"}, {}, "timm has no such weights of"),
        ({"name": TRUNK, "pretrained": "no/file.pth"}, {}, "no such weights file"),
        ({"name": "test_resnet", "pretrained": "trunk"}, {}, "weights of another architecture, "),
        ({}, {"pretrained": "nowhere"}, "no folder with a config.json, no imported model"),
        ({}, {"context_length": 30}, "context_length is 30; this encoder reads 3 to 24 tokens"),
        ({"pretrained": "tiny-clip", "name": None, "head": "mlp"}, {}, "has a projection"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    published: Path, image: dict[str, Any], text: dict[str, Any], sentence: str
) -> None:
    file = str(published / "trunk.safetensors")
    if image.get("pretrained") == "trunk":
        image = image | {"pretrained": file}
    with pytest.raises(ConfigError, match=sentence):
        join(
            *(published, {"name": TRUNK, "pretrained": file} | image),
            {"pretrained": str(published / "bert")} | text,
        )


@pytest.mark.faults(kind="P4", trials=3)
@pytest.mark.parametrize("fault", ["code", "cut", "model type"])
def test_a_folder_that_wants_code_or_is_cut_is_refused(
    published: Path, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    for file in (published / "bert").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    if fault == "cut":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
    else:
        config |= {"auto_map": {"AutoModel": "evil.Model"}} if fault == "code" else {}
        config |= {"model_type": "mamba"} if fault == "model type" else {}
        (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigError if fault != "cut" else CheckpointError) as refused:
        join(
            *(published, {"name": TRUNK, "pretrained": str(published / "trunk.safetensors")}),
            {"pretrained": str(folder)},
        )
    said = {"code": "asks to run code", "cut": "not a readable weights file", "model type": "known"}
    assert said[fault] in str(refused.value)


@pytest.mark.parametrize(
    ("section", "key"),
    [("vision_cfg", "timm_model_pretrained"), ("text_cfg", "hf_model_pretrained")],
)
def test_a_json_config_that_asks_for_weights_nobody_loads_is_refused(
    tmp_path: Path, section: str, key: str
) -> None:
    architecture = clip_architecture(False)
    architecture[section][key] = True
    path = tmp_path / "tiny-trap.json"
    path.write_text(json.dumps(architecture))
    with pytest.raises(ConfigError, match=f"{key} is true, but a JSON config loads no weights"):
        base_towers(ModelConfig(name=str(path)), tmp_path, "cpu", "fp32", 0)


def test_a_json_config_with_a_local_text_encoder_is_saved_and_read(
    published: Path, tmp_path: Path
) -> None:
    architecture = clip_architecture(False)
    bert = str(published / "bert")
    architecture["text_cfg"] = {
        "hf_model_name": bert,
        "hf_tokenizer_name": bert,
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": 12,
    }
    path = tmp_path / "tiny-local-bert.json"
    path.write_text(json.dumps(architecture))
    towers = base_towers(ModelConfig(name=str(path)), tmp_path, "cpu", "fp32", 0)
    save_towers(towers, tmp_path / "saved")
    again = load_towers(tmp_path / "saved", "cpu")
    assert all(map(torch.equal, embeddings(towers), embeddings(again)))


def test_auto_is_bf16_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has_amx, has_avx, wanted in (
        (False, False, "fp32"),
        (True, False, "bf16"),
        (False, True, "bf16"),
    ):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has_amx: has)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_avx: has)
        assert resolve_precision("auto", cpu) == wanted
    assert resolve_precision("bf16", cpu) == "bf16"
