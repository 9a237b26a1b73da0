"""Towers as ONNX, for machines without torch: tokens or pixels in, unit embeddings out.

Each graph has a dynamic batch, and the text tower a dynamic number of tokens where it does not read
its padding: of 77, about 11 are left for titles. What is exported are the passes that training runs
(`model.towers.passes`). Exporting a tiny ViT takes 4 s of a core a tower, ViT-B-32 10 s
(DECISIONS 71).
"""

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch.nn.functional import normalize

from model.errors import NoPortableForm
from model.towers.passes import cut_tokens, image_features, text_features
from model.towers.towers import Towers

OPSET = 20  # what onnxruntime has read since 1.17, of January 2024
EXTERNAL_BYTES = 2_000_000_000  # protobuf ends at 2 GiB
# What torch's exporter raises on a tower that it cannot follow, its own errors among them.
CANNOT_EXPORT = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
# Neither 0 nor 1, which an exporter takes for constants.
EXAMPLE_ROWS = 3
EXAMPLE_CAPTIONS = ["red shirt", "red", ""]


class TextGraph(torch.nn.Module):
    """Token ids int64 [B, L] to unit embeddings [B, D]."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the embeddings."""
        return normalize(text_features(self.clip, tokens), dim=-1)


class ImageGraph(torch.nn.Module):
    """Images uint8 [B, 3, side, side] to unit embeddings [B, D]."""

    image_mean: torch.Tensor
    image_std: torch.Tensor

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip
        for name in ("image_mean", "image_std"):
            values = torch.tensor(tuple(getattr(clip.visual, name)))
            self.register_buffer(name, values.view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the embeddings, normalising the pixels first."""
        normalised = (pixels.float() / 255 - self.image_mean) / self.image_std
        return normalize(image_features(self.clip, normalised), dim=-1)


def reads_padding(towers: Towers) -> bool:
    """Return whether a caption's feature depends on all tokens of the context."""
    tokens = towers.tokenizer(EXAMPLE_CAPTIONS)
    return cut_tokens(towers.clip, tokens)[0][0].shape[1] == tokens.shape[1]


def export_text(towers: Towers, path: Path, external_bytes: int = EXTERNAL_BYTES) -> None:
    """Write the text tower of towers on the CPU: ``tokens`` to ``text_embedding``.

    Raises:
        NoPortableForm: torch cannot export it.
    """
    tokens = towers.tokenizer(EXAMPLE_CAPTIONS)
    axes = {0: torch.export.Dim.DYNAMIC}
    if not reads_padding(towers):
        tokens, axes = cut_tokens(towers.clip, tokens)[0][0], axes | {1: torch.export.Dim.DYNAMIC}
    _export(TextGraph(towers.clip), "tokens", tokens, axes, path, external_bytes)


def export_images(towers: Towers, path: Path, external_bytes: int = EXTERNAL_BYTES) -> None:
    """Write the image tower of towers on the CPU: ``pixels`` to ``image_embedding``.

    Raises:
        NoPortableForm: torch cannot export it.
    """
    side = towers.image_size
    pixels = torch.zeros(EXAMPLE_ROWS, 3, side, side, dtype=torch.uint8)
    axes = {0: torch.export.Dim.DYNAMIC}
    _export(ImageGraph(towers.clip), "pixels", pixels, axes, path, external_bytes)


def quantise_text(exact: Path, path: Path) -> None:
    """Write a text tower whose products are taken in 8 bits, a scale a column of weights.

    Weights keep 7 bits: without VNNI, a processor's sums of two products of 8 bits overflow.
    """
    quantize_dynamic(
        exact,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=exact.with_name(f"{exact.name}.data").exists(),
    )


def _export(
    graph: torch.nn.Module,
    takes: str,
    example: torch.Tensor,
    axes: dict[int, Any],
    path: Path,
    external_bytes: int,
) -> None:
    kind = "text" if takes == "tokens" else "image"
    graph.eval()
    try:
        # Tracing alone makes constants of sizes that attention reshapes by; dynamo follows them.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.export.export(graph, (example,), dynamic_shapes=(axes,), strict=True)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=[takes],
                output_names=[f"{kind}_embedding"],
                opset_version=OPSET,
                verbose=False,
            )
        weights = sum(tensor.nbytes for tensor in graph.state_dict().values())
        assert program is not None
        program.save(path, external_data=weights > external_bytes)
        onnx.checker.check_model(path)
    except (*CANNOT_EXPORT, torch.onnx.OnnxExporterError, onnx.checker.ValidationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise NoPortableForm(f"the {kind} tower cannot be exported to ONNX: {reason}") from error
