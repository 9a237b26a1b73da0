"""Compiled passes give the plain ones' values; where compiling fails, training goes on."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from model.towers.compiled import Compiled
from model.towers.passes import image_features
from model.towers.towers import Towers, compile_towers, encode_images, encode_texts


class Fails(torch.autograd.Function):
    """Fails on its way back, as code does whose backward pass cannot be compiled."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor) -> torch.Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("no compiler found\nset CXX")


def fails_forwards(clip: Any, inputs: torch.Tensor) -> torch.Tensor:
    raise ImportError("no compiler found\nset CXX")


@pytest.mark.parametrize("direction", ["forwards", "backwards"])
def test_a_pass_that_cannot_be_compiled_runs_plain_and_says_so_once(
    towers: Towers,
    direction: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(plain: Callable[[Any, torch.Tensor], torch.Tensor]) -> object:
        return (
            fails_forwards
            if direction == "forwards"
            else lambda clip, inputs: Fails.apply(plain(clip, inputs))
        )

    monkeypatch.setattr(torch, "compile", broken)
    compiled, images = (
        Compiled(image_features),
        torch.rand(2, 3, towers.image_size, towers.image_size),
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            compiled(towers.clip, images).sum().backward()
    error = "ImportError" if direction == "forwards" else "RuntimeError"
    assert caplog.messages == [
        f"compile: image_features runs uncompiled, it failed with {error}: no compiler found"
    ]


def test_memory_that_runs_out_is_no_failure_to_compile(
    towers: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(clip: Any, inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "compile", lambda plain: exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        Compiled(image_features)(
            towers.clip, torch.rand(2, 3, towers.image_size, towers.image_size)
        )


def test_compiling_leaves_the_random_state_and_the_gradients_alone(
    towers: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def draws(plain: Callable[[Any, torch.Tensor], torch.Tensor]) -> object:
        def drawing(clip: Any, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(torch.rand(1))
            return plain(clip, inputs)

        return drawing

    monkeypatch.setattr(torch, "compile", draws)
    compiled, images = (
        Compiled(image_features),
        torch.rand(2, 3, towers.image_size, towers.image_size),
    )
    compiled(towers.clip, images)
    assert len(seen) == 2 and torch.equal(*seen), "the warm-up draws what the step draws again"
    assert all(parameter.grad is None for parameter in towers.clip.parameters())


def test_passes_without_gradients_are_not_compiled(
    towers: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda plain: fails_forwards)
    with torch.no_grad():
        assert encode_texts(compile_towers(towers), ["red shirt"]).shape == (1, towers.embed_dim)


def test_compiled_towers_give_the_same_embeddings_at_a_few_lengths(
    towers: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def listening(plain: Callable[[Any, torch.Tensor], torch.Tensor]) -> object:
        def listen(clip: Any, inputs: torch.Tensor) -> torch.Tensor:
            lengths.append(inputs.shape[1])
            return plain(clip, inputs)

        return listen

    monkeypatch.setattr(torch, "compile", listening)
    compiled = compile_towers(towers)
    images = torch.randint(0, 256, (3, 3, towers.image_size, towers.image_size), dtype=torch.uint8)
    assert torch.equal(encode_images(compiled, images), encode_images(towers, images))
    lengths.clear()
    captions = ["red shirt", "a blue bag with a gold zip", "teal dress"] * 20
    torch.testing.assert_close(
        encode_texts(compiled, captions), encode_texts(towers, captions), rtol=0, atol=1e-6
    )
    assert lengths == [16, 16], "once to warm up, once for the step"


@pytest.mark.integration
def test_torch_can_trace_both_passes(
    towers: Towers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True)
    )
    compiled = compile_towers(towers)
    images = torch.randint(0, 256, (3, 3, towers.image_size, towers.image_size), dtype=torch.uint8)
    assert (
        encode_images(compiled, images).requires_grad
        and encode_texts(compiled, ["red shirt"]).requires_grad
    )
    assert not [record for record in caplog.records if record.name == "model.towers.compiled"]
