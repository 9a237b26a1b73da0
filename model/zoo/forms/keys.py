"""Tensors of one model under two sets of names: a rule a group of tensors, good both ways."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from model.towers.towers import NamedTensors

Conversion = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]

# A block of transformers' towers but for queries, keys and values; and open_clip's and timm's
# names of the list of blocks, of queries, keys and values as one, and of those parts.
BLOCK_PARTS = ("self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
OPEN_CLIP_BLOCK = (
    "resblocks", "attn.in_proj_", "attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj",
)  # fmt: skip
TIMM_BLOCK = ("blocks", "attn.qkv.", "attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2")


def _same(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return tensors


class Rule(NamedTuple):
    """Which of their tensors become which of ours, and how; ``back`` undoes it to the bit."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    there: Conversion = _same
    back: Conversion = _same


def same(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of a module with weight and bias."""
    return [Rule((f"{theirs}.{part}",), (f"{ours}.{part}",)) for part in ("weight", "bias")]


def transposed(theirs: str, ours: str) -> Rule:
    """Return the rule of a matrix that one side has transposed."""
    return Rule((theirs,), (ours,), lambda one: [one[0].T], lambda one: [one[0].T])


def reshaped(
    theirs: str, ours: str, their_shape: tuple[int, ...], our_shape: tuple[int, ...]
) -> Rule:
    """Return the rule of a tensor whose axes of length 1 differ."""
    return Rule(
        (theirs,),
        (ours,),
        lambda one: [one[0].reshape(our_shape)],
        lambda one: [one[0].reshape(their_shape)],
    )


def stacked(theirs: Sequence[str], ours: str) -> Rule:
    """Return the rule of tensors of equal shape that are one with us."""
    return Rule(
        tuple(theirs),
        (ours,),
        lambda parts: [torch.cat(list(parts))],
        lambda one: one[0].chunk(len(theirs)),
    )


def to_ours(theirs: Mapping[str, torch.Tensor], rules: Iterable[Rule]) -> NamedTensors:
    """Return tensors under our names; what no rule knows keeps its name, to be found unknown."""
    left, ours = dict(theirs), NamedTensors()
    for rule in rules:
        if all(name in left for name in rule.theirs):
            ours |= dict(
                zip(rule.ours, rule.there([left.pop(name) for name in rule.theirs]), strict=True)
            )
    return ours | left


def to_theirs(ours: Mapping[str, torch.Tensor], rules: Iterable[Rule]) -> NamedTensors:
    """Return tensors under their names, contiguous.

    Raises:
        KeyError: one that the rules need is not there.
    """
    theirs = NamedTensors()
    for rule in rules:
        theirs |= dict(zip(rule.theirs, rule.back([ours[name] for name in rule.ours]), strict=True))
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def block_rules(
    theirs: str, ours: str, layers: int, names: Sequence[str] = OPEN_CLIP_BLOCK
) -> Iterable[Rule]:
    """Yield the rules of the blocks of a Hugging Face tower; ``names`` are those of our block."""
    blocks, queries, *parts = names
    for number in range(layers):
        there, here = f"{theirs}.encoder.layers.{number}", f"{ours}.{blocks}.{number}"
        for kind in ("weight", "bias"):
            yield stacked(
                [f"{there}.self_attn.{letter}_proj.{kind}" for letter in "qkv"],
                f"{here}.{queries}{kind}",
            )
        for their_part, our_part in zip(BLOCK_PARTS, parts, strict=True):
            yield from same(f"{there}.{their_part}", f"{here}.{our_part}")


def vision_rules(theirs: str, ours: str, layers: int) -> list[Rule]:
    """Return the rules of a Hugging Face vision transformer of CLIP, its projection aside."""
    embeddings = f"{theirs}.embeddings"
    return [
        Rule((f"{embeddings}.class_embedding",), (f"{ours}.class_embedding",)),
        Rule((f"{embeddings}.patch_embedding.weight",), (f"{ours}.conv1.weight",)),
        Rule((f"{embeddings}.position_embedding.weight",), (f"{ours}.positional_embedding",)),
        *same(f"{theirs}.pre_layrnorm", f"{ours}.ln_pre"),  # transformers' spelling
        *block_rules(theirs, f"{ours}.transformer", layers),
        *same(f"{theirs}.post_layernorm", f"{ours}.ln_post"),
    ]
