"""Chinese models that are not whole, or hostile: one sentence each, nothing run, nothing left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import CheckpointError, CommerceClipError
from model.zoo.importing import import_model
from model.zoo.published import Given
from tests.chinese_forms import FORMS

NOBODY = Given()


@pytest.fixture(autouse=True)
def one_head_in_thirty_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Chinese-CLIP's heads be narrow enough for a tiny BERT of two."""
    monkeypatch.setattr("model.zoo.forms.chinese_clip.HEAD_WIDTH", 16)


Spoil = Callable[[Path], object]


def in_config(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))

    return spoil


def in_tensors(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        weights = path if path.is_file() else path / BIN
        tensors = torch.load(weights, weights_only=True)
        change(tensors)
        torch.save(tensors, weights)

    return spoil


def without(name: str) -> Spoil:
    return in_config(lambda config: config.pop(name))


BIN, POSITIONS = "pytorch_model.bin", "module.bert.embeddings.position_embeddings.weight"
SPOILED: list[tuple[str, Spoil, str]] = [
    ("easynlp", lambda path: (path / "vocab.txt").unlink(), "no vocab.txt"),
    (
        "easynlp",
        lambda path: (path / "vocab.txt").write_bytes(b"[PAD]\n"),
        r"\[UNK\], \[CLS\], \[SEP\] missing",
    ),
    ("easynlp", without("text_hidden_size"), "text_hidden_size missing"),
    ("easynlp", in_config(lambda config: config.update(text_hidden_size="x")), "hidden_size"),
    ("easynlp", in_config(lambda config: config.update(vision_width=-1)), "vision_width is -1"),
    ("easynlp", in_config(lambda config: config.update(vision_layers=3)), "another architecture"),
    (
        "easynlp",
        in_tensors(lambda tensors: tensors.pop("chinese_clip.text_projection")),
        r"missing \(text\.proj\.weight\)",
    ),
    (
        "easynlp",
        in_tensors(lambda tensors: tensors.update({"chinese_clip.bert.extra": torch.ones(1)})),
        r"unknown \(text\.transformer\.extra\)",
    ),
    (
        "huggingface",
        in_config(lambda config: config["vision_config"].update(hidden_act="relu")),
        "vision_config.hidden_act is 'relu', known are quick_gelu and gelu",
    ),
    (
        "huggingface",
        in_config(lambda config: config["vision_config"].update(hidden_size="64")),
        "vision_config.hidden_size is '64', no positive number",
    ),
    (
        "huggingface",
        lambda path: (path / "tokenizer_config.json").write_text('{"do_lower_case": false}'),
        "keeps capital letters",
    ),
    (
        "easynlp-first",
        in_tensors(lambda tensors: tensors.pop("text_projection.weight")),
        "so it is not",
    ),
    (
        "easynlp-first",
        in_tensors(
            lambda tensors: tensors.pop(next(name for name in tensors if "q_proj.weight" in name))
        ),
        "another architecture",
    ),
    ("chinese-clip", lambda path: (path.parent / "vocab.txt").unlink(), "no vocab.txt"),
    (
        "chinese-clip",
        in_tensors(lambda tensors: tensors["state_dict"].pop(POSITIONS)),
        "another architecture",
    ),
]


@pytest.mark.parametrize(("form", "spoil", "sentence"), SPOILED)
def test_a_folder_that_is_not_whole_is_refused_in_a_sentence(
    tmp_path: Path, form: str, spoil: Spoil, sentence: str
) -> None:
    path, _ = FORMS[form](tmp_path / "published")
    spoil(path)
    with pytest.raises(CommerceClipError, match=sentence) as caught:
        import_model(path, tmp_path / "ours", NOBODY)
    assert "\n" not in str(caught.value) and not (tmp_path / "ours").exists()


class Poison:
    """Would leave a canary where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("form", ["easynlp", "easynlp-first", "chinese-clip"])
@pytest.mark.parametrize("damage", ["poison", "cut", "pointer"])
def test_a_hostile_weights_file_is_neither_run_nor_taken(
    tmp_path: Path, form: str, damage: str
) -> None:
    path, _ = FORMS[form](tmp_path / "published")
    weights, canary = path if path.is_file() else path / BIN, tmp_path / "canary"
    if damage == "poison":
        with_poison = torch.load(weights, weights_only=True) | {"state_dict": Poison(canary)}
        torch.save(with_poison, weights)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-2000])
    else:
        weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError) as caught:
        import_model(path, tmp_path / "ours", NOBODY)
    assert (
        "\n" not in str(caught.value) and not canary.exists() and not (tmp_path / "ours").exists()
    )
