"""FLOPs counted from the architecture are those that torch counts in open_clip's passes; rates are of a group."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.batches.loading import Batch
from model.config.sections import ModelConfig
from model.towers.create import create_towers
from model.towers.towers import Towers, normalise
from model.training.flops import flops_a_pair, measure_peak_flops
from model.training.meter import Meter
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


def counted(towers: Towers, tokens: int, is_training: bool) -> float:
    """Return what torch counts for a batch, a pair."""
    images = torch.zeros(PAIRS, 3, towers.image_size, towers.image_size, dtype=torch.uint8)
    # With gradients in both cases: without, torch fuses attention into an operation that it does
    # not count.
    with FlopCounterMode(display=False) as counter:
        image = towers.clip.encode_image(normalise(towers, images))
        text = towers.clip.encode_text(torch.ones(PAIRS, tokens, dtype=torch.int64))
        if is_training:
            (image * text).sum().backward()
    return counter.get_total_flops() / PAIRS


@pytest.mark.parametrize("architecture", [TINY_MODEL, DEEPER], ids=["tiny", "deeper"])
def test_the_flops_of_a_pair_are_those_that_torch_counts(
    tmp_path: Path, architecture: dict[str, object]
) -> None:
    path = tmp_path / f"flops-{id(architecture)}-test-model.json"
    path.write_text(json.dumps(architecture), encoding="utf-8")
    towers = create_towers(ModelConfig(name=str(path)), "cpu")
    tokens = int(towers.config["model_cfg"]["text_cfg"]["context_length"])
    flops = flops_a_pair(towers)
    assert flops is not None
    assert flops / 3 == pytest.approx(counted(towers, tokens, is_training=False), rel=1e-6)
    # Attention's backward pass computes its scores again, which the usual count leaves out; pixels
    # get no gradient.
    assert flops == pytest.approx(counted(towers, tokens, is_training=True), rel=0.1)


def test_fewer_tokens_are_fewer_flops(towers: Towers) -> None:
    all_tokens, half = flops_a_pair(towers), flops_a_pair(towers, 8)
    assert all_tokens is not None and half is not None and half < all_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_cfg": {"layers": [2, 2, 2, 2], "width": 8, "image_size": SIDE}},
        {"text_cfg": {"hf_model_name": "roberta"}},
    ],
)
def test_of_other_architectures_nothing_is_said(towers: Towers, changes: dict[str, object]) -> None:
    towers.config["model_cfg"] = TINY_MODEL | changes
    assert flops_a_pair(towers) is None
    meter = Meter(towers, 1e12)
    meter.count(Batch(np.arange(2), torch.empty(0), torch.ones(2, 4), torch.empty(0)))
    assert meter.read(1).mfu is None and meter.read(1).tflops_per_s is None


def test_vit_b_32_takes_what_others_count() -> None:
    """Return 44 GFLOPs a training pair: open_clip's profile says 14.78 GFLOPs forward for 224 pixels and 77 tokens."""
    vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    config = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}}
    flops = flops_a_pair(Towers(None, list, config, torch.device("cpu")))  # type: ignore[arg-type]
    assert flops == pytest.approx(3 * 14.78e9, rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_device_s_peak_is_a_number_of_flops(precision: str) -> None:
    assert 1e7 < measure_peak_flops(torch.device("cpu"), precision) < 1e15


def test_rates_are_those_of_the_group(towers: Towers, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 100.0, 100.0, 101.0, 101.0, 103.0, 110.0])
    monkeypatch.setattr("model.training.meter.time", SimpleNamespace(monotonic=lambda: next(now)))
    meter, flops = Meter(towers, 1e9), flops_a_pair(towers, 7)
    assert flops is not None
    meter.start()
    tokens = torch.zeros(16, 16, dtype=torch.int64)
    tokens[0, :7] = 5
    batch = Batch(np.arange(16), torch.empty(0), tokens, torch.empty(0))
    for loaded in meter.waiting(iter([batch])):
        meter.count(loaded)
    rates = meter.read(world=2)
    assert rates.pairs_per_s == pytest.approx(
        2 * 16 / 10
    ) and rates.data_wait_share == pytest.approx(0.3)
    assert rates.tflops_per_s == pytest.approx(1.6 * flops / 1e12) and rates.mfu == pytest.approx(
        1.6 * flops / 1e9
    )
    assert rates.peak_memory_gb is None
