"""Runs start from imported models by name, at the config's resolution, as open_clip does it."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from model.config.sections import ModelConfig
from model.errors import ConfigError
from model.towers.base import base_towers
from model.towers.create import resize_towers
from model.towers.folder import load_towers, save_towers
from model.towers.towers import Towers, encode_images
from model.zoo.importing import import_model
from model.zoo.published import Given
from tests.published import SIGLIP_TRUNK, clip_architecture, siglip_architecture, write_open_clip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two imported models."""
    home = tmp_path_factory.mktemp("shelf")
    for name, architecture in (
        ("tiny-clip", clip_architecture(True)),
        ("tiny-siglip", siglip_architecture()),
    ):
        write_open_clip(home / "published" / name, architecture)
        import_model(home / "published" / name, home / "models" / name, Given())
    return home / "models"


def start(shelf: Path, **model: object) -> Towers:
    return base_towers(ModelConfig.model_validate(model), shelf, "cpu", "fp32", 0)


def test_an_imported_model_brings_its_weights_and_its_towers(shelf: Path) -> None:
    towers = start(shelf, pretrained="tiny-clip")
    weights = load_file(shelf / "tiny-clip/open_clip_model.safetensors")
    assert all(
        torch.equal(value, weights[name]) for name, value in towers.clip.state_dict().items()
    )
    assert towers.image_size == 32 and towers.config["model_cfg"]["quick_gelu"]
    assert start(shelf, pretrained=str(shelf / "tiny-clip")).config == towers.config


def test_a_name_that_was_not_imported_is_refused_with_the_nearest(shelf: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no model was imported under that name; did you mean 'tiny-clip'\?"
    ):
        start(shelf, pretrained="tiny-clop")
    published = shelf.parent / "published/tiny-clip"
    with pytest.raises(
        ConfigError,
        match=r"a folder as published; make base weights of it by `.* models import",
    ):
        start(shelf, pretrained=str(published))


@pytest.mark.parametrize("side", [16, 48, 64])
def test_positions_are_interpolated_as_open_clip_does(
    shelf: Path, tmp_path: Path, side: int
) -> None:
    towers = start(shelf, pretrained="tiny-clip", image_size=side)
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": clip_architecture(True), "preprocess_cfg": {}})
    )
    (tmp_path / "open_clip_model.safetensors").symlink_to(
        shelf / "tiny-clip/open_clip_model.safetensors"
    )
    theirs = open_clip.create_model(f"local-dir:{tmp_path}", force_image_size=side)
    ours = towers.clip.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.state_dict().items())
    assert towers.image_size == side


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_a_resized_model_is_saved_and_read_with_its_resolution(
    shelf: Path, tmp_path: Path, name: str
) -> None:
    towers = start(shelf, pretrained=name, image_size=48)
    save_towers(towers, tmp_path / "saved")
    again = load_towers(tmp_path / "saved", "cpu")
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        for one in (towers, again):
            one.clip.eval()
        assert torch.equal(encode_images(towers, images), encode_images(again, images))
    assert again.image_size == 48 and again.files.keys() == towers.files.keys() >= {"origin.json"}


def test_siglips_positions_are_interpolated_as_timm_does(shelf: Path) -> None:
    import timm

    trunk = timm.create_model(SIGLIP_TRUNK, num_classes=0, img_size=32)
    before = start(shelf, pretrained="tiny-siglip")
    trunk.load_state_dict(
        {name: value.clone() for name, value in before.clip.visual.trunk.state_dict().items()}
    )
    trunk.set_input_size(img_size=64)
    assert torch.equal(resize_towers(before, 64).clip.visual.trunk.pos_embed, trunk.pos_embed)


@pytest.mark.parametrize(("name", "side"), [("tiny-clip", 40), ("tiny-siglip", 40)])
def test_a_resolution_that_is_no_whole_number_of_patches_is_refused(
    shelf: Path, name: str, side: int
) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.image_size is 40, no multiple of the 16 pixels of a patch"
    ):
        start(shelf, pretrained=name, image_size=side)


def test_a_tower_without_patches_has_one_resolution(tmp_path: Path) -> None:
    architecture = clip_architecture(False)
    architecture["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
    (tmp_path / "tiny-resnet-for-base.json").write_text(json.dumps(architecture))
    with pytest.raises(ConfigError, match="a ModifiedResNet has a fixed one; set it to null"):
        start(tmp_path, name=str(tmp_path / "tiny-resnet-for-base.json"), image_size=96)


def test_weights_of_a_tag_with_another_activation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="weights 'openai' have another activation; set it to ViT-B-32-quickgelu"
    ):
        start(tmp_path, name="ViT-B-32", pretrained="openai")
