"""FLOPs are those of the architecture, by hand and by others' counts; rates are of a group."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.batches.loading import Batch
from model.config.sections import ModelConfig
from model.towers.create import create_towers
from model.towers.towers import Towers, encode_images, encode_tokens, normalise
from model.training.meter import Hollow, Meter, PairFlops, measure_peak_flops
from tests.tiny import SIDE, TINY_MODEL

PAIRS = 3
DEEPER = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 48,
        "layers": 3,
        "head_width": 16,
        "mlp_ratio": 2.0,
    },
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
RESNET = TINY_MODEL | {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}


def made(folder: Path, name: str, architecture: dict[str, object]) -> Towers:
    """Return towers of an architecture that the test names."""
    path = folder / f"flops-{name}-test-model.json"
    path.write_text(json.dumps(architecture), encoding="utf-8")
    return create_towers(ModelConfig(name=str(path)), "cpu")


def transformer_macs(tokens: int, width: int, layers: int, mlp_ratio: float = 4) -> float:
    """Return the multiply-adds of blocks by hand: 4 projections, 2 products, an MLP of 2 layers."""
    return layers * tokens * ((4 + 2 * mlp_ratio) * width**2 + 2 * tokens * width)


def pair_flops_by_hand(model: dict[str, Any], tokens: int) -> float:
    """Return the FLOPs of training on a pair, written down from the architecture."""
    vision, text, embed = model["vision_cfg"], model["text_cfg"], model["embed_dim"]
    width, patch = vision["width"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    image = patches * 3 * patch**2 * width + width * embed
    image += transformer_macs(patches + 1, width, vision["layers"], vision.get("mlp_ratio", 4))
    captions = transformer_macs(tokens, text["width"], text["layers"]) + text["width"] * embed
    return 3 * 2 * (image + captions)


def counted(towers: Towers, tokens: int) -> float:
    """Return what torch counts of a pair in open_clip's passes with values, both ways."""
    images = torch.zeros(PAIRS, 3, towers.image_size, towers.image_size, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        image = towers.clip.encode_image(normalise(towers, images))
        text = towers.clip.encode_text(torch.ones(PAIRS, tokens, dtype=torch.int64))
        (image * text).sum().backward()
    return counter.get_total_flops() / PAIRS


@pytest.mark.parametrize("architecture", [TINY_MODEL, DEEPER], ids=["tiny", "deeper"])
def test_the_flops_of_a_pair_are_those_of_the_architecture_at_any_length(
    tmp_path: Path, architecture: dict[str, Any]
) -> None:
    towers = made(tmp_path, str(len(architecture["vision_cfg"])), architecture)
    flops, context = PairFlops(towers), architecture["text_cfg"]["context_length"]
    for tokens in (context, 5, 9, context):
        assert flops(tokens) == pytest.approx(pair_flops_by_hand(architecture, tokens), rel=1e-6)
    # Attention's backward pass computes its scores again, which the usual count leaves out; pixels
    # get no gradient.
    assert flops(context) == pytest.approx(counted(towers, context), rel=0.1)


@pytest.mark.parametrize("frozen", [False, True])
def test_counting_leaves_towers_and_random_numbers_as_they_were(
    towers: Towers, frozen: bool
) -> None:
    towers.clip.visual.requires_grad_(not frozen)
    towers.clip.train()
    before = {name: value.clone() for name, value in towers.clip.state_dict().items()}
    state = torch.get_rng_state()

    assert PairFlops(towers)(8) == pytest.approx(pair_flops_by_hand(TINY_MODEL, 8), rel=1e-6)

    assert torch.equal(torch.get_rng_state(), state) and towers.clip.training
    assert all(torch.equal(value, before[name]) for name, value in towers.clip.state_dict().items())
    images = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    assert encode_images(towers, images).device.type == "cpu"
    assert encode_tokens(towers, towers.tokenizer(["red", "shoe"])).device.type == "cpu"


def test_a_length_is_counted_once(towers: Towers, monkeypatch: pytest.MonkeyPatch) -> None:
    flops = PairFlops(towers)
    first = [flops(tokens) for tokens in (4, 8)]
    monkeypatch.setattr(Hollow, "flops", lambda *_: pytest.fail("counted again"))
    assert [flops(tokens) for tokens in (4, 8)] == first


def test_a_resnet_is_counted_too(tmp_path: Path) -> None:
    towers = made(tmp_path, "resnet", RESNET)
    flops = PairFlops(towers)(16)
    assert flops == pytest.approx(counted(towers, 16), rel=0.1)


def test_of_a_tower_that_asks_for_values_nothing_is_known(towers: Towers) -> None:
    class Asking(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean(dim=(1, 2, 3)) * float(pixels.sum())

    towers.clip.visual = Asking()
    towers.clip.visual.image_size = SIDE
    meter = Meter(towers, 1e12)
    meter.count(Batch(np.arange(2), torch.empty(0), torch.ones(2, 4), torch.empty(0)))
    assert meter.read(1).mfu is None and meter.read(1).tflops_per_s is None


def test_vit_b_32_takes_what_others_count() -> None:
    """open_clip's profile says 14.78 GFLOPs forward for 224 pixels and 77 tokens."""
    with torch.device("meta"):  # no need to draw 151 million weights
        clip = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
    flops = PairFlops(Towers(clip, list, {}, torch.device("cpu")))(77)
    assert flops == pytest.approx(3 * 14.78e9, rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_device_s_peak_is_a_number_of_flops(precision: str) -> None:
    assert 1e7 < measure_peak_flops(torch.device("cpu"), precision) < 1e15


def test_rates_are_those_of_the_group(towers: Towers, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 100.0, 100.0, 101.0, 101.0, 103.0, 110.0])
    monkeypatch.setattr("model.training.meter.time", SimpleNamespace(monotonic=lambda: next(now)))
    meter, flops = Meter(towers, 1e9), PairFlops(towers)(7)
    assert flops is not None
    meter.start()
    tokens = torch.zeros(16, 16, dtype=torch.int64)
    tokens[0, :7] = 5
    batch = Batch(np.arange(16), torch.empty(0), tokens, torch.empty(0))
    for loaded in meter.waiting(iter([batch])):
        meter.count(loaded)
    rates = meter.read(world=2)
    assert rates.pairs_per_s == pytest.approx(2 * 16 / 10)
    assert rates.data_wait_share == pytest.approx(0.3)
    assert rates.tflops_per_s == pytest.approx(1.6 * flops / 1e12)
    assert rates.mfu == pytest.approx(1.6 * flops / 1e9)
    assert rates.peak_memory_gb is None
