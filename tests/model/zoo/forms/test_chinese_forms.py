"""Chinese models come in with the embeddings of their own libraries, and go out as they came."""

import base64
import json
import os
from itertools import islice
from pathlib import Path

import open_clip
import pytest
import torch
from transformers import ChineseCLIPModel

from model.batches.crops import centre_crop, decode_image
from model.batches.loading import pair_input
from model.config.sections import ModelConfig
from model.embeddings.embed import embed_captions, embed_encoded_images
from model.errors import CheckpointError, CommerceClipError
from model.evaluation.split import evaluate_split
from model.towers.base import base_towers
from model.towers.bert import build_bert_clip
from model.towers.folder import load_towers
from model.towers.towers import Towers, encode_images, encode_texts, normalise
from model.training.loop import train
from model.training.stage import Callbacks, Stage
from model.zoo.family import FAMILY, PublishedModel
from model.zoo.importing import convert_model, import_model
from model.zoo.published import Given
from tests.chinese import HARD_CAPTIONS, vocabulary
from tests.chinese_forms import (
    FORMS,
    LARGE,
    SCALE,
    Embed,
    chinese_clip,
    easynlp,
    easynlp_first,
    huggingface,
    plain_reference,
    shaken,
)
from tests.tiny import SIDE, WIDTH, TinyData, tiny_stage_config

NOBODY = Given()


def images() -> torch.Tensor:
    return torch.randint(
        0, 256, (5, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


@torch.inference_mode()
def compare(folder: Path, embed: Embed) -> Towers:
    """Compare embeddings with the reference's, which takes token ids and normalised pixels."""
    towers = load_towers(folder, "cpu")
    towers.clip.eval()
    text, image = embed(towers.tokenizer(HARD_CAPTIONS), normalise(towers, images()))
    ours = encode_texts(towers, HARD_CAPTIONS), encode_images(towers, images())
    for mine, theirs in zip(ours, (text, image), strict=True):
        unit = torch.nn.functional.normalize(theirs, dim=-1)
        torch.testing.assert_close(mine, unit, rtol=0, atol=1e-5)
        assert mine.std(dim=0).mean() > 0.003, "captions and images differ"
    return towers


@pytest.fixture(autouse=True)
def one_head_in_thirty_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Chinese-CLIP's heads be narrow enough for a tiny BERT of two."""
    monkeypatch.setattr("model.zoo.forms.chinese_clip.HEAD_WIDTH", 16)


@pytest.fixture(params=FORMS)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Embed]:
    path, embed = FORMS[request.param](tmp_path / "published")
    return request.param, path, embed


def test_a_published_model_comes_in_with_its_embeddings(
    published: tuple[str, Path, Embed], tmp_path: Path
) -> None:
    name, path, embed = published
    origin = import_model(path, tmp_path / "ours", NOBODY)
    towers = compare(tmp_path / "ours", embed)
    assert origin["form"] == name and towers.files["vocab.txt"] == vocabulary()
    if name != "huggingface":
        assert towers.clip.logit_scale.item() == pytest.approx(SCALE)
    assert towers.tokenizer(["红"]).shape[1] == (32 if name.startswith("easynlp") else 52)


def test_it_goes_out_as_it_came_and_comes_in_again_with_the_same_bits(
    published: tuple[str, Path, Embed], tmp_path: Path
) -> None:
    name, path, _ = published
    import_model(path, tmp_path / "ours", NOBODY)
    convert_model(tmp_path / "ours", name, tmp_path / "theirs")
    again = tmp_path / "theirs" / "clip_cn.pt" if name == "chinese-clip" else tmp_path / "theirs"
    import_model(again, tmp_path / "again", NOBODY)
    one, two = (load_towers(tmp_path / folder, "cpu") for folder in ("ours", "again"))
    other = two.clip.state_dict()
    assert one.clip.state_dict().keys() == other.keys()
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.clip.state_dict().items())
    assert (
        one.config["model_cfg"] == two.config["model_cfg"]
        and one.files["vocab.txt"] == two.files["vocab.txt"]
    )


def test_a_chinese_model_goes_from_each_form_into_the_others(tmp_path: Path) -> None:
    path, embed = easynlp(tmp_path / "published")
    import_model(path, tmp_path / "easynlp", NOBODY)
    for name in ("huggingface", "chinese-clip"):
        convert_model(tmp_path / "easynlp", name, tmp_path / f"as-{name}")
    import_model(tmp_path / "as-chinese-clip" / "clip_cn.pt", tmp_path / "one", NOBODY)
    import_model(tmp_path / "as-huggingface", tmp_path / "two", NOBODY)
    compare(tmp_path / "one", embed), compare(tmp_path / "two", embed)


@torch.inference_mode()
def test_transformers_reads_what_we_write(tmp_path: Path) -> None:
    path, embed = easynlp(tmp_path / "published")
    import_model(path, tmp_path / "ours", NOBODY)
    convert_model(tmp_path / "ours", "huggingface", tmp_path / "theirs")
    model, report = ChineseCLIPModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    towers = load_towers(tmp_path / "ours", "cpu")
    tokens, pixels = towers.tokenizer(HARD_CAPTIONS), normalise(towers, images())
    text, image = embed(tokens, pixels)
    output = model.eval()(
        input_ids=tokens, attention_mask=(tokens != 0).long(), pixel_values=pixels
    )
    for theirs, expected in ((output.text_embeds, text), (output.image_embeds, image)):
        torch.testing.assert_close(
            theirs, torch.nn.functional.normalize(expected, dim=-1), rtol=0, atol=1e-5
        )


def test_chinese_clip_comes_without_its_prefix_too(tmp_path: Path) -> None:
    path, embed = chinese_clip(tmp_path / "published", prefix="")
    import_model(path, tmp_path / "ours", NOBODY)
    compare(tmp_path / "ours", embed)


def test_chinese_clip_with_a_resnet_comes_in_and_goes_out(tmp_path: Path) -> None:
    state, _ = plain_reference()
    vision = {"image_size": 32, "layers": [1, 2, 1, 1], "width": 2}
    theirs = open_clip.CustomTextCLIP(
        WIDTH, vision, {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1}
    )
    text = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("visual.") and "pooler" not in name
    }
    image = {
        f"visual.{name}": tensor for name, tensor in shaken(theirs.visual).state_dict().items()
    }
    (tmp_path / "vocab.txt").write_bytes(vocabulary())
    torch.save({"state_dict": text | image}, tmp_path / "clip_cn_rn50.pt")
    import_model(tmp_path / "clip_cn_rn50.pt", tmp_path / "ours", NOBODY)
    towers = load_towers(tmp_path / "ours", "cpu")
    towers.clip.eval()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            towers.clip.encode_image(pixels), theirs.visual(pixels), rtol=0, atol=1e-5
        )
    convert_model(tmp_path / "ours", "chinese-clip", tmp_path / "theirs")
    convert_model(tmp_path / "ours", "easynlp", tmp_path / "easynlp")
    with pytest.raises(CommerceClipError, match="huggingface"):
        convert_model(tmp_path / "ours", "huggingface", tmp_path / "huggingface")
    for again in (tmp_path / "theirs" / "clip_cn.pt", tmp_path / "easynlp"):
        import_model(again, tmp_path / f"again-{again.name}", NOBODY)
        tensors = load_towers(tmp_path / f"again-{again.name}", "cpu").clip.state_dict()
        assert all(
            torch.equal(tensor, tensors[name]) for name, tensor in towers.clip.state_dict().items()
        )


def test_a_vocabulary_may_lie_inside_tokenizer_json(tmp_path: Path) -> None:
    path, embed = huggingface(tmp_path / "published")
    tokens = vocabulary().decode().splitlines()
    (path / "vocab.txt").unlink()
    content = {
        "model": {"vocab": dict(reversed([(token, number) for number, token in enumerate(tokens)]))}
    }
    (path / "tokenizer.json").write_text(json.dumps(content))
    import_model(path, tmp_path / "ours", NOBODY)
    assert compare(tmp_path / "ours", embed).files["vocab.txt"] == vocabulary()


def test_a_folder_says_how_images_are_made_ready_in_and_out(tmp_path: Path) -> None:
    path, _ = huggingface(tmp_path / "published")
    images_json = {
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.1, 0.2, 0.3],
    }
    (path / "preprocessor_config.json").write_text(json.dumps(images_json))
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert import_model(path, tmp_path / "ours", NOBODY)["licence"] == "apache-2.0"
    convert_model(tmp_path / "ours", "huggingface", tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "again", NOBODY)
    one, two = (load_towers(tmp_path / name, "cpu") for name in ("ours", "again"))
    assert one.config["preprocess_cfg"] == two.config["preprocess_cfg"] and one.resizing.is_squashed
    with pytest.raises(CheckpointError, match="no place"):
        convert_model(tmp_path / "ours", "easynlp", tmp_path / "easynlp")


def test_a_form_without_a_place_for_the_towers_says_so(tmp_path: Path) -> None:
    path, _ = easynlp_first(tmp_path / "published")
    import_model(path, tmp_path / "ours", NOBODY)
    for name in ("easynlp", "chinese-clip", "huggingface"):
        with pytest.raises(CommerceClipError, match=name):
            convert_model(tmp_path / "ours", name, tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("form", FORMS)
def test_an_imported_chinese_model_is_evaluated_and_fine_tuned(
    tmp_path: Path, tiny_data: TinyData, form: str
) -> None:
    path, _ = FORMS[form](tmp_path / "published")
    import_model(path, tmp_path / "shelf" / "shop", NOBODY)
    towers = base_towers(
        ModelConfig(pretrained="shop", context_length=9), tmp_path / "shelf", "cpu", "fp32", 0
    )
    assert towers.tokenizer(["红"]).shape == (1, 9)
    pairs, valid = (
        pair_input(towers.input_spec, index)
        for index in (tiny_data.train_index(), tiny_data.valid_index())
    )

    def validate(towers: Towers) -> dict[str, float]:
        return evaluate_split(towers, valid, 32, 32, workers=0).metrics()

    stage = Stage(tiny_stage_config(epochs=1, lr=1e-4), pairs, validate, tmp_path / "run", 0, 0)
    state = train(towers, stage, Callbacks())
    best = load_towers(tmp_path / "run" / state.best_folder, "cpu")
    assert validate(best)["mean_recall"] == pytest.approx(state.best_mean_recall)
    assert best.files["vocab.txt"] == vocabulary() and best.tokenizer(["红"]).shape == (1, 9)


CHINESE = [row for row in FAMILY if row.language == "Chinese"]


@pytest.mark.parametrize("row", CHINESE, ids=lambda row: row.name)
def test_a_chinese_row_says_its_form_and_the_size_of_its_towers(row: PublishedModel) -> None:
    assert row.form in FORMS and row.activation == "quickgelu"
    name = "vit-l-14" if "ViT-L-14" in row.towers else row.towers.split(",")[0].lower()
    architecture = json.loads(
        Path(f"configs/models/roberta-{name}.json").read_text(encoding="utf-8")
    )
    if row.form == "easynlp-first":
        architecture["projection_bias"] = True
        architecture["text_cfg"]["bert"] |= LARGE | {"model_type": "roberta"}
    with torch.device("meta"):
        clip = build_bert_clip(architecture)
    assert round(sum(parameter.numel() for parameter in clip.parameters()) / 1e6) == row.parameters
    assert clip.visual.image_size in (row.resolution, (row.resolution, row.resolution))


@pytest.mark.real
@torch.inference_mode()
def test_real_pairs_get_the_embeddings_of_the_published_model(
    published: tuple[str, Path, Embed], tmp_path: Path
) -> None:
    _, path, embed = published
    import_model(path, tmp_path / "ours", NOBODY)
    towers = load_towers(tmp_path / "ours", "cpu")
    towers.clip.eval()
    tsv = next(Path(os.environ["REAL_PAIRS"]).rglob("test.tsv"))
    with tsv.open("rb") as file:
        lines = [line.decode().split("\t") for line in islice(file, 16)]
    pixels = [decode_image(base64.b64decode(image)) for _, image in lines]
    crops = torch.stack(
        [
            centre_crop(image, SIDE, towers.resizing)
            for image in pixels
            if not isinstance(image, str)
        ]
    )
    text, image = embed(
        towers.tokenizer([caption for caption, _ in lines]), normalise(towers, crops)
    )
    ours = (
        embed_captions(towers, [caption for caption, _ in lines]),
        embed_encoded_images(towers, [base64.b64decode(image) for _, image in lines]),
    )
    for mine, theirs in zip(ours, (text, image), strict=True):
        torch.testing.assert_close(
            mine, torch.nn.functional.normalize(theirs, dim=-1), rtol=0, atol=1e-5
        )
