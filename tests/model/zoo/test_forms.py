"""A published model gives the embeddings of its own library, and comes back to the bit."""

import base64
import gzip
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from model.batches.crops import Resizing, centre_crop, decode_image
from model.batches.loading import Crop
from model.embeddings.embed import embed_encoded_images
from model.errors import CheckpointError, ConfigError
from model.towers.folder import load_towers
from model.towers.towers import Towers, encode_images, encode_texts, encode_tokens
from model.towers.towers import normalise as pixels_of
from model.zoo.forms import bpe
from model.zoo.forms.easynlp_english import truncating_as_theirs
from model.zoo.importing import convert_model, import_model
from model.zoo.published import Given
from tests.published import (
    CAPTIONS,
    PATCH,
    SIDE,
    clip_architecture,
    contiguous,
    easynlp_image,
    easynlp_text,
    siglip_architecture,
    write_easynlp,
    write_hugging_face_clip,
    write_open_clip,
    write_siglip2,
    write_with_hugging_face_text,
)
from tests.tiny import drawn_jpeg

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


def images() -> torch.Tensor:
    return torch.randint(
        0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)
    )


def imported(path: Path, given: Given | None = None, name: str = "ours") -> Towers:
    folder = path.parent / f"{path.name}-{name}"
    import_model(path, folder, given or Given())
    towers = load_towers(folder, "cpu")
    towers.clip.eval()
    return towers


@torch.no_grad()
def assert_same_embeddings(towers: Towers, image: torch.Tensor, text: torch.Tensor) -> None:
    assert float((encode_images(towers, images()) - image).abs().max()) <= TOLERANCE
    assert float((encode_texts(towers, CAPTIONS) - text).abs().max()) <= TOLERANCE


@torch.no_grad()
def as_open_clip(folder: Path, clip: Any, towers: Towers) -> tuple[torch.Tensor, torch.Tensor]:
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    assert torch.equal(towers.tokenizer(CAPTIONS), ids)
    return clip.encode_image(pixels_of(towers, images()), normalize=True), clip.encode_text(
        ids, normalize=True
    )


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_folder_of_open_clip_gives_the_embeddings_of_open_clip(
    home: Path, quick_gelu: bool
) -> None:
    folder = home / f"open-clip-{quick_gelu}"
    clip = write_open_clip(folder, clip_architecture(quick_gelu))
    towers = imported(folder)
    assert_same_embeddings(towers, *as_open_clip(folder, clip, towers))


def test_a_siglip_of_open_clip_gives_its_embeddings_and_sees_squashed_images(home: Path) -> None:
    folder = home / "marqo"
    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    clip = write_open_clip(folder, siglip_architecture(), preprocess)
    towers = imported(folder)
    assert_same_embeddings(towers, *as_open_clip(folder, clip, towers))
    assert (
        towers.resizing == (True, "bicubic")
        and towers.config["preprocess_cfg"]["mean"] == [0.5] * 3
    )


def test_a_text_tower_of_transformers_is_built_from_the_config_that_lies_beside_it(
    home: Path,
) -> None:
    folder = home / "roberta"
    clip = write_with_hugging_face_text(folder)
    towers = imported(folder)
    image, text = as_open_clip(folder, clip, towers)
    shutil.rmtree(folder)
    assert_same_embeddings(towers, image, text)
    convert_model(home / "roberta-ours", "open_clip", home / "roberta-out")
    assert_same_embeddings(imported(home / "roberta-out"), image, text)


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_a_bare_file_of_weights_needs_its_towers_and_its_activation_named(
    home: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_open_clip(tmp_path / "folder", clip_architecture(True))
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        (tmp_path / "folder/open_clip_model.safetensors").rename(path)
    else:
        weights = {f"module.{name}": value for name, value in clip.state_dict().items()}
        torch.save(
            {"epoch": 1, "state_dict": weights} if suffix == "pt" else clip.state_dict(), path
        )
    monkeypatch.setattr("open_clip.list_models", lambda: ["ViT-B-32", "ViT-B-32-quickgelu"])
    monkeypatch.setattr(
        "open_clip.get_model_config", lambda name: clip_architecture("quick" in name)
    )

    with pytest.raises(ConfigError, match="does not say of which towers it is; pass --towers"):
        import_model(path, tmp_path / "x", Given())
    with pytest.raises(ConfigError, match=r"trained with gelu or quickgelu.*pass --activation"):
        import_model(path, tmp_path / "x", Given("ViT-B-32"))

    named = [
        Given("ViT-B-32", "quickgelu"),
        Given("ViT-B-32-quickgelu"),
        Given("ViT-B-32/openai"),
        Given("vit-b-32-openai"),
    ]
    for number, given in enumerate(named if suffix == "pt" else named[:1]):
        towers = imported(path, given, str(number))
        assert_same_embeddings(towers, *as_open_clip(tmp_path / "folder", clip, towers))
    with pytest.raises(ConfigError, match="--activation gelu: ViT-B-32-quickgelu says quickgelu"):
        import_model(path, tmp_path / "x", Given("ViT-B-32-quickgelu", "gelu"))
    assert not imported(path, Given("ViT-B-32/laion2b_s34b_b79k"), "gelu").config["model_cfg"][
        "quick_gelu"
    ]


def test_easynlps_english_models_give_the_embeddings_of_its_own_towers(home: Path) -> None:
    architecture, folder = clip_architecture(True), home / "pai"
    clip = write_open_clip(home / "pai-source", architecture)
    write_easynlp(folder, clip, architecture)
    towers = imported(folder)
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    with torch.no_grad():
        image = easynlp_image(tensors, pixels_of(towers, images()), PATCH)
        text = easynlp_text(
            tensors, open_clip.tokenize(CAPTIONS), architecture["text_cfg"]["heads"]
        )
    assert_same_embeddings(towers, image, text)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_fashion_clips_form_gives_the_embeddings_of_transformers(
    home: Path, hidden_act: str
) -> None:
    folder = home / f"fashion-clip-{hidden_act}"
    model = write_hugging_face_clip(folder, hidden_act)
    towers = imported(folder)

    theirs = AutoTokenizer.from_pretrained(folder)
    ids = theirs(
        CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels_of(towers, images())).pooler_output
        text = model.get_text_features(input_ids=ids).pooler_output
    assert_same_embeddings(towers, normalize(image, dim=-1), normalize(text, dim=-1))
    # The ids are the same up to the end of text, after which CLIP's own pad with 0 and transformers
    # with the end.
    is_padding = torch.cumsum(ids == 49407, dim=1) > (ids == 49407)
    assert torch.equal(towers.tokenizer(CAPTIONS), ids.masked_fill(is_padding, 0))


def test_siglip_2_gives_the_embeddings_and_the_tokens_of_transformers(home: Path) -> None:
    folder = home / "siglip2"
    model = write_siglip2(folder)
    towers = imported(folder)

    theirs = AutoTokenizer.from_pretrained(folder)
    ids = theirs(
        CAPTIONS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(towers.tokenizer(CAPTIONS), ids) and int(ids.max()) > 260
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels_of(towers, images())).pooler_output
        text = model.get_text_features(input_ids=ids).pooler_output
    assert_same_embeddings(towers, normalize(image, dim=-1), normalize(text, dim=-1))
    assert torch.equal(towers.clip.logit_scale, model.logit_scale[0]) and torch.equal(
        towers.clip.logit_bias, model.logit_bias[0]
    )


PUBLISH: dict[str, Callable[[Path], object]] = {
    "quickgelu": lambda folder: write_open_clip(folder, clip_architecture(True)),
    "gelu": lambda folder: write_open_clip(folder, clip_architecture(False)),
    "fashion-clip": lambda folder: write_hugging_face_clip(folder, "quick_gelu"),
    "siglip": lambda folder: write_open_clip(folder, siglip_architecture()),
    "siglip2": write_siglip2,
}
ROUND_TRIPS = [
    ("quickgelu", "open_clip"),
    ("quickgelu", "easynlp"),
    ("quickgelu", "huggingface"),
    ("gelu", "huggingface"),
    ("fashion-clip", "easynlp"),
    ("siglip", "open_clip"),
    ("siglip", "huggingface"),
    ("siglip2", "open_clip"),
    ("siglip2", "huggingface"),
]


@pytest.mark.parametrize(("kind", "form"), ROUND_TRIPS)
def test_a_round_trip_through_a_published_form_changes_no_bit(
    tmp_path: Path, kind: str, form: str
) -> None:
    PUBLISH[kind](tmp_path / "theirs")
    before = imported(tmp_path / "theirs")
    convert_model(tmp_path / "theirs-ours", form, tmp_path / "out")
    after = imported(tmp_path / "out")

    ours, again = before.clip.state_dict(), after.clip.state_dict()
    assert ours.keys() == again.keys() and all(
        torch.equal(ours[name], again[name]) for name in ours
    )
    with torch.no_grad():
        assert torch.equal(encode_images(before, images()), encode_images(after, images()))
    cleaned = [
        caption
        for caption in CAPTIONS
        if form == "open_clip" or kind != "siglip" or caption.islower()
    ]
    assert torch.equal(before.tokenizer(cleaned), after.tokenizer(cleaned))
    assert before.config["preprocess_cfg"] == after.config["preprocess_cfg"]


@pytest.mark.parametrize("form", ["huggingface", "easynlp"])
def test_a_form_without_place_for_the_towers_says_so(tmp_path: Path, form: str) -> None:
    architecture = clip_architecture(False)
    architecture["text_cfg"]["pool_type"] = "last"
    write_open_clip(tmp_path / "theirs", architecture)
    imported(tmp_path / "theirs")
    with pytest.raises(
        CheckpointError, match=rf"the form {form} has no place for these towers; open_clip has"
    ):
        convert_model(tmp_path / "theirs-ours", form, tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"--to open-clip: no such form; did you mean 'open_clip'\?"
    ):
        convert_model(tmp_path / "theirs-ours", "open-clip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="out: is there already; name a new folder"):
        convert_model(tmp_path / "theirs-ours", "open_clip", tmp_path / "out")


def test_what_is_converted_is_read_by_the_librarys_own_loader(tmp_path: Path) -> None:
    clip = write_open_clip(tmp_path / "a", clip_architecture(True))
    imported(tmp_path / "a")
    convert_model(tmp_path / "a-ours", "open_clip", tmp_path / "b")
    again = open_clip.create_model(f"local-dir:{tmp_path / 'b'}")
    assert all(
        torch.equal(value, clip.state_dict()[name]) for name, value in again.state_dict().items()
    )

    convert_model(tmp_path / "a-ours", "huggingface", tmp_path / "c")
    assert torch.equal(
        CLIPModel.from_pretrained(tmp_path / "c").visual_projection.weight.T, clip.visual.proj
    )

    theirs = write_siglip2(tmp_path / "s")
    imported(tmp_path / "s")
    convert_model(tmp_path / "s-ours", "huggingface", tmp_path / "t")
    model = SiglipModel.from_pretrained(tmp_path / "t")
    assert all(
        torch.equal(value, theirs.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_half_precision_becomes_single_and_loses_nothing(tmp_path: Path) -> None:
    clip = write_open_clip(tmp_path / "a", clip_architecture(True)).half()
    (tmp_path / "a/open_clip_model.safetensors").unlink()
    torch.save(contiguous(clip.state_dict()), tmp_path / "a/open_clip_pytorch_model.bin")
    ours = imported(tmp_path / "a").clip.state_dict()
    assert all(torch.equal(ours[name], value.float()) for name, value in clip.state_dict().items())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_squashed_images_are_those_of_open_clips_transform(interpolation: str) -> None:
    jpeg = drawn_jpeg("red shoe", 1, side=90)
    image = Image.open(io.BytesIO(jpeg)).crop((0, 0, 90, 50))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    config = PreprocessCfg(
        SIDE, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation, resize_mode="squash"
    )
    theirs = image_transform_v2(config, is_train=False)(image) * 255

    decoded = decode_image(buffer.getvalue())
    assert isinstance(decoded, torch.Tensor)
    ours = centre_crop(decoded, SIDE, Resizing(True, interpolation)).float()
    assert float((ours - theirs).abs().max()) <= 2 and float((ours - theirs).abs().mean()) < 0.2
    assert Crop(SIDE).resizing == Resizing(False, "bicubic")


@pytest.mark.real
def test_real_pairs_get_the_embeddings_of_transformers(home: Path) -> None:
    folder = home / "real"
    model = write_hugging_face_clip(folder, "gelu")
    towers = imported(folder)
    tsv = next(Path(os.environ["REAL_PAIRS"]).rglob("test.tsv"))
    with open(tsv, "rb") as file:
        lines = [next(file).rstrip(b"\n").split(b"\t") for _ in range(16)]
    images = [base64.b64decode(line[1]) for line in lines]

    cropped = [centre_crop(decode_image(image), SIDE) for image in images]  # type: ignore[arg-type]
    with torch.no_grad():
        theirs = model.get_image_features(
            pixel_values=pixels_of(towers, torch.stack(cropped))
        ).pooler_output
    assert (
        float((embed_encoded_images(towers, images) - normalize(theirs, dim=-1)).abs().max())
        <= TOLERANCE
    )
    ids = towers.tokenizer([line[0].decode() for line in lines])
    with torch.no_grad():
        text = normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
        assert float((encode_tokens(towers, ids) - text).abs().max()) <= TOLERANCE


def test_easynlps_truncation_gives_its_own_ids_and_embeddings_of_long_captions(
    tmp_path: Path,
) -> None:
    architecture = clip_architecture(True)
    clip = write_open_clip(tmp_path / "source", architecture)
    write_easynlp(tmp_path / "pai", clip, architecture)
    towers = imported(tmp_path / "pai")
    theirs = truncating_as_theirs(towers)

    long, short = CAPTIONS[-1], CAPTIONS[0]
    tokens = open_clip.get_tokenizer("ViT-B-32")
    whole = [tokens.sot_token_id, *tokens.encode(long), tokens.eot_token_id]
    ids = theirs.tokenizer([long, short])
    assert ids[0].tolist() == whole[:77] and tokens.eot_token_id not in ids[0]
    assert torch.equal(ids[1], towers.tokenizer([short])[0])

    tensors = torch.load(tmp_path / "pai/pytorch_model.bin", weights_only=True)
    with torch.no_grad():
        assert (
            float((encode_texts(theirs, [long, short]) - easynlp_text(tensors, ids, 2)).abs().max())
            <= TOLERANCE
        )
        assert (
            float((encode_texts(theirs, [long]) - encode_texts(towers, [long])).abs().max()) > 1e-3
        )

    siglip = tmp_path / "siglip"
    write_siglip2(siglip)
    with pytest.raises(ConfigError, match="these towers do not read CLIP's byte pairs"):
        truncating_as_theirs(imported(siglip))


def test_an_easynlp_folder_with_other_merges_is_refused(tmp_path: Path) -> None:
    clip = write_open_clip(tmp_path / "source", clip_architecture(True))
    write_easynlp(tmp_path / "pai", clip, clip_architecture(True))
    merges = gzip.decompress(bpe.own_merges()).decode().split("\n")
    merges[5], merges[6] = merges[6], merges[5]
    (tmp_path / "pai/vocab.txt").write_bytes(gzip.compress("\n".join(merges).encode()))
    with pytest.raises(CheckpointError, match=r"vocab\.txt: other merges than CLIP's"):
        import_model(tmp_path / "pai", tmp_path / "ours", Given())
    (tmp_path / "pai/vocab.txt").write_bytes(b"plain text")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: not the gzipped merges of CLIP"):
        import_model(tmp_path / "pai", tmp_path / "ours", Given())
