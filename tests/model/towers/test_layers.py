"""Each parameter of each kind of tower has its place: embeddings below, projections on top."""

import json
from pathlib import Path

import pytest
import torch

from model.config.sections import ModelConfig
from model.towers.create import create_towers
from model.towers.layers import TowerPlace, place_parameters

RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [2, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def places_of(folder: Path, architecture: dict[str, object], name: str) -> dict[str, TowerPlace]:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(architecture))
    return place_parameters(create_towers(ModelConfig(name=str(path)), "cpu").clip)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TowerPlace]:
    text = RESNET["text_cfg"] | {"layers": 3}  # type: ignore[operator]
    vision = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    architecture = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    return places_of(tmp_path_factory.mktemp("vit"), architecture, "places-vit")


@pytest.mark.parametrize(
    ("name", "tower", "above"),
    [
        ("visual.conv1.weight", "image", 3),
        ("visual.class_embedding", "image", 3),
        ("visual.positional_embedding", "image", 3),
        ("visual.ln_pre.bias", "image", 3),
        ("visual.transformer.resblocks.0.mlp.c_fc.weight", "image", 2),
        ("visual.transformer.resblocks.1.ln_2.weight", "image", 1),
        ("visual.ln_post.weight", "image", 0),
        ("visual.proj", "image", 0),
        ("token_embedding.weight", "text", 4),
        ("positional_embedding", "text", 4),
        ("transformer.resblocks.0.attn.in_proj_weight", "text", 3),
        ("transformer.resblocks.2.attn.in_proj_weight", "text", 1),
        ("ln_final.weight", "text", 0),
        ("text_projection", "text", 0),
        ("logit_scale", None, 0),
    ],
)
def test_a_vision_transformer_and_its_text_tower_are_placed(
    vit: dict[str, TowerPlace], name: str, tower: str | None, above: int
) -> None:
    assert vit[name] == (tower, above)


def test_each_block_of_a_resnet_is_a_layer_between_its_stem_and_its_pooling(tmp_path: Path) -> None:
    places = places_of(tmp_path, RESNET, "places-resnet")
    above = {name: place.layers_above for name, place in places.items() if place.tower == "image"}
    assert {above[name] for name in above if name.split(".")[1] in ("conv1", "bn1", "conv3")} == {6}
    assert [
        above[f"visual.{block}.conv1.weight"]
        for block in ("layer1.0", "layer1.1", "layer2.0", "layer4.0")
    ] == [
        5,
        4,
        3,
        1,
    ]
    assert {above[name] for name in above if "attnpool" in name} == {0}


class Encoder(torch.nn.Module):
    """A text tower of Hugging Face's form: embeddings, numbered layers, a projection of parts."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = torch.nn.ModuleDict(
            {
                "embeddings": torch.nn.ModuleDict({"word_embeddings": torch.nn.Embedding(5, 2)}),
                "encoder": torch.nn.ModuleDict(
                    {"layer": torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in "ab")}
                ),
            }
        )
        self.proj = torch.nn.Sequential(
            torch.nn.Linear(2, 2), torch.nn.GELU(), torch.nn.Linear(2, 2)
        )


def test_a_tower_of_another_library_is_placed_by_the_order_of_its_modules() -> None:
    clip = torch.nn.Module()
    clip.visual, clip.text = torch.nn.Linear(2, 2), Encoder()
    places = place_parameters(clip)
    assert places["text.transformer.embeddings.word_embeddings.weight"] == ("text", 5)
    assert places["text.transformer.encoder.layer.1.bias"] == ("text", 3)
    assert (places["text.proj.0.weight"], places["text.proj.2.weight"]) == (
        ("text", 2),
        ("text", 1),
    )
    assert places["visual.weight"].tower == "image"
