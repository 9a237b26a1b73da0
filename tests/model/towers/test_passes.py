"""The short passes give open_clip's values and gradients; other towers go open_clip's own way."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import open_clip
import pytest
import torch
from open_clip.hf_model import HFTextEncoder

from model.errors import ConfigError
from model.towers.passes import (
    PatchDropout,
    cut_tokens,
    image_features,
    set_patch_dropout,
    text_features,
)
from tests.tiny import SIDE, WIDTH

CONTEXT = 16
CAPTIONS = ["red shirt", "", "a blue bag with a gold zip", "teal dress"]
VISION = {"image_size": SIDE, "patch_size": 4, "width": 32, "layers": 3, "head_width": 16}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
SHORT: dict[str, dict[str, Any]] = {
    "plain": {},
    "quick gelu": {"quick_gelu": True},
    "layer scale": {"vision_cfg": {"ls_init_value": 0.3}, "text_cfg": {"ls_init_value": 0.2}},
    "norm after pooling": {"vision_cfg": {"final_ln_after_pool": True, "no_ln_pre": True}},
    "end of text by id": {"text_cfg": {"pool_type": "eos", "eos_id": 49407}},
    "text tower of its own": {"custom_text": True, "text_cfg": {"proj_bias": True}},
    "no projection": {"embed_dim": 16, "text_cfg": {"proj_type": "none"}},
}
LONG: dict[str, dict[str, Any]] = {
    "mean of patches, text in both directions": {
        "vision_cfg": {"pool_type": "avg"},
        "text_cfg": {"no_causal_mask": True, "pool_type": "last"},
        "custom_text": True,
    },
    "normed queries and keys": {"vision_cfg": {"qk_norm": True}, "text_cfg": {"qk_norm": True}},
    "attention pooling, class token in the text": {
        "vision_cfg": {"attentional_pool": True, "attn_pooler_heads": 2},
        "text_cfg": {"embed_cls": True, "pool_type": "last"},
        "custom_text": True,
    },
    "resnet": {
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None},
        "text_cfg": {"no_causal_mask": True},
    },
}


def architecture(name: str) -> dict[str, Any]:
    changes = (SHORT | LONG)[name]
    vision, text = VISION | changes.get("vision_cfg", {}), TEXT | changes.get("text_cfg", {})
    return {"embed_dim": WIDTH, **changes, "vision_cfg": vision, "text_cfg": text}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a maker of float64 models in training, weights of seed 0."""
    folder = tmp_path_factory.mktemp("encode-models")

    def make(name: str) -> Any:
        path = folder / f"encode-{name.replace(' ', '-').replace(',', '')}.json"
        path.write_text(json.dumps(architecture(name)))
        open_clip.add_model_config(path)
        torch.manual_seed(0)
        return open_clip.create_model(path.stem, pretrained_text=False).double().train()

    return make


def pixels(clip: Any) -> torch.Tensor:
    side = clip.visual.image_size
    side = side[0] if isinstance(side, tuple) else side
    return torch.randn(
        4, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def tokens() -> torch.Tensor:
    return open_clip.SimpleTokenizer(context_length=CONTEXT)(CAPTIONS)


def cut(clip: Any, ids: torch.Tensor) -> torch.Tensor:
    (group,), place_B = cut_tokens(clip, ids)
    assert torch.equal(place_B, torch.arange(len(ids)))
    return group


def with_gradients(clip: Any, features: torch.Tensor) -> list[torch.Tensor]:
    """Return features and the gradient of an uneven function of them by every parameter."""
    clip.zero_grad(set_to_none=True)
    (
        features * torch.linspace(-1, 2, features.numel(), dtype=features.dtype).view_as(features)
    ).sum().backward()
    untouched = torch.zeros((), dtype=features.dtype)
    return [
        features.detach(),
        *(untouched if p.grad is None else p.grad for p in clip.parameters()),
    ]


def assert_same(
    clip: Any, ours: Callable[[], torch.Tensor], theirs: Callable[[], torch.Tensor]
) -> None:
    for one, other in zip(
        with_gradients(clip, ours()), with_gradients(clip, theirs()), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*SHORT, *LONG])
def test_features_and_gradients_are_those_of_open_clip(
    build: Callable[[str], Any], name: str
) -> None:
    clip = build(name)
    images, ids = pixels(clip), tokens()
    assert_same(clip, lambda: image_features(clip, images), lambda: clip.encode_image(images))
    assert_same(clip, lambda: text_features(clip, cut(clip, ids)), lambda: clip.encode_text(ids))


@pytest.mark.parametrize("name", SHORT)
def test_plain_towers_take_the_short_way(build: Callable[[str], Any], name: str) -> None:
    clip = build(name)
    clip.encode_image = clip.encode_text = None
    ids = cut(clip, tokens())
    assert ids.shape == (4, 9)
    assert image_features(clip, pixels(clip)).shape == text_features(clip, ids).shape == (4, WIDTH)


@pytest.mark.parametrize("name", LONG)
def test_other_towers_keep_all_their_tokens(build: Callable[[str], Any], name: str) -> None:
    assert cut(build(name), tokens()).shape == (4, CONTEXT)


def test_lengths_round_up_to_a_multiple_but_not_beyond_the_context(
    build: Callable[[str], Any],
) -> None:
    clip, ids = build("plain"), tokens()
    lengths = [
        cut_tokens(clip, ids, multiple=multiple)[0][0].shape[1] for multiple in (1, 4, 8, 12, 64)
    ]
    assert lengths == [9, 12, CONTEXT, 12, CONTEXT]


def test_captions_go_in_groups_by_length_and_come_back_in_order(
    build: Callable[[str], Any],
) -> None:
    clip, ids = build("plain"), tokens()
    groups, place_B = cut_tokens(clip, ids, groups=2)
    assert [group.shape for group in groups] == [(2, 4), (2, 9)]
    together = torch.cat(
        [torch.nn.functional.pad(group, (0, CONTEXT - group.shape[1])) for group in groups]
    )
    assert torch.equal(together[place_B], ids)
    assert_same(
        clip,
        lambda: torch.cat([text_features(clip, group) for group in groups])[place_B],
        lambda: clip.encode_text(ids),
    )


def test_recomputed_activations_give_the_same_gradients(build: Callable[[str], Any]) -> None:
    clip, calls = build("plain"), 0
    images, ids = pixels(clip), cut(clip, tokens())

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    clip.visual.transformer.resblocks[0].mlp.c_fc.register_forward_hook(count)
    plain = (
        with_gradients(clip, image_features(clip, images)),
        with_gradients(clip, text_features(clip, ids)),
    )
    clip.set_grad_checkpointing(True)
    again = (
        with_gradients(clip, image_features(clip, images)),
        with_gradients(clip, text_features(clip, ids)),
    )
    assert calls == 3, "once plain, once forwards, once more backwards"
    for one, other in zip(plain, again, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.fixture
def hugging_face(build: Callable[[str], Any]) -> Iterator[Any]:
    """Return a model whose text tower is a tiny BERT."""
    from transformers import BertConfig

    clip = build("text tower of its own")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    bert = BertConfig(vocab_size=60, max_position_embeddings=CONTEXT, **sizes)
    bert.hidden_dropout_prob = bert.attention_probs_dropout_prob = 0.0
    clip.text = HFTextEncoder(
        "bert", WIDTH, config=bert, pooler_type="mean_pooler", proj_type="linear"
    ).double()
    yield clip


def test_a_tower_that_masks_padding_is_cut_to_the_longest_caption(hugging_face: Any) -> None:
    ids = torch.zeros(3, CONTEXT, dtype=torch.int64)
    for row, length in enumerate((3, 7, 5)):
        ids[row, :length] = torch.arange(2, 2 + length)
    assert cut(hugging_face, ids).shape == (3, 7)
    assert_same(
        hugging_face,
        lambda: text_features(hugging_face, cut(hugging_face, ids)),
        lambda: hugging_face.encode_text(ids),
    )


def test_patch_dropout_keeps_the_class_token_and_a_share_of_distinct_patches_in_training() -> None:
    x_BLE = torch.arange(2 * 9, dtype=torch.float32).view(2, 9, 1).expand(2, 9, 3)
    dropout = PatchDropout(0.4)
    torch.manual_seed(3)
    kept = dropout(x_BLE)
    assert kept.shape == (2, 1 + 5, 3)
    assert torch.equal(kept[:, 0], x_BLE[:, 0])
    for row, stay in enumerate(kept[:, 1:, 0].tolist()):
        assert len(set(stay)) == 5 and set(stay) <= set(x_BLE[row, 1:, 0].tolist())
    torch.manual_seed(3)
    assert torch.equal(dropout(x_BLE), kept) and not torch.equal(dropout(x_BLE), kept)
    assert torch.equal(dropout.eval()(x_BLE), x_BLE)
    assert PatchDropout(0.99)(x_BLE).shape == (2, 2, 3), "one patch stays"


def test_patch_dropout_is_set_on_a_vision_transformer_and_refused_elsewhere(
    build: Callable[[str], Any],
) -> None:
    clip = build("plain")
    images, names = pixels(clip), list(clip.state_dict())
    whole = image_features(clip, images)
    set_patch_dropout(clip, None)
    assert torch.equal(image_features(clip, images), whole)
    set_patch_dropout(clip, 0.5)
    assert (
        not torch.allclose(image_features(clip, images), whole) and list(clip.state_dict()) == names
    )
    assert torch.equal(image_features(clip.eval(), images), whole)
    set_patch_dropout(clip, 0.0)
    assert torch.equal(image_features(clip.train(), images), whole)
    with pytest.raises(
        ConfigError,
        match=r"patch_dropout is 0\.5, but the image tower is a ModifiedResNet; set it to",
    ):
        set_patch_dropout(build("resnet"), 0.5)
