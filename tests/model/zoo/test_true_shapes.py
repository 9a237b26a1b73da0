"""Every row of the table in its true shapes: imported, compared, evaluated, trained.

Embeddings are compared with those of the model's own library.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from model.batches.loading import Crop, load_batch, pair_input
from model.evaluation.split import evaluate_split
from model.towers.folder import load_towers
from model.towers.towers import Towers, encode_images, encode_texts
from model.towers.towers import normalise as pixels_of
from model.training.objective import Objective
from model.training.optimizer import make_optimizer
from model.training.update import Updater
from model.zoo.family import FAMILY, PublishedModel
from model.zoo.importing import import_model
from model.zoo.published import Given
from tests.chinese import vocabulary
from tests.chinese_forms import FORMS, LARGE, Embed, Shapes, plain_reference, shaken
from tests.published import (
    CAPTIONS,
    easynlp_image,
    easynlp_text,
    write_easynlp,
    write_hugging_face_clip,
    write_open_clip,
    write_siglip2,
)
from tests.tiny import TinyData, tiny_stage_config, write_data

LOG = logging.getLogger(__name__)
NOISE = 0.02
BASE_TEXT = {
    "vocab_size": 21128, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
B_32 = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "image_size": 224, "patch_size": 32,
}  # fmt: skip
L_14 = B_32 | LARGE | {"patch_size": 14}
CHINESE = {
    "clip_chinese_roberta_base_vit_base": Shapes(BASE_TEXT, B_32, 512, NOISE),
    "clip_chinese_roberta_base_vit_large": Shapes(BASE_TEXT, L_14, 768, NOISE),
    "clip_chinese_roberta_large_with_vit_large": Shapes(BASE_TEXT | LARGE, L_14, 768, NOISE),
    "chinese-clip-vit-b-16": Shapes(BASE_TEXT, B_32 | {"patch_size": 16}, 512, NOISE),
    "chinese-clip-vit-l-14": Shapes(BASE_TEXT, L_14, 768, NOISE),
    "chinese-clip-rn50": Shapes(BASE_TEXT | {"num_hidden_layers": 3}, B_32, 1024, NOISE),
}


class Published(NamedTuple):
    """Where a model lies as published, what the user must state, and what its library computes."""

    path: Path
    given: Given
    embed: Embed


def published(row: PublishedModel, folder: Path) -> Published:
    """Write a row as published, with random weights in its true shapes."""
    if row.name == "chinese-clip-rn50":
        return chinese_resnet(folder, CHINESE[row.name])
    if row.name in CHINESE:
        path, embed = FORMS[row.form](folder, CHINESE[row.name])
        return Published(path, Given(), embed)
    if row.form == "easynlp":
        return easynlp(row, folder)
    if row.form == "huggingface":
        return hugging_face(row, folder)

    architecture = open_clip.get_model_config(row.architecture)
    if row.tag is not None:
        architecture["quick_gelu"] = row.activation == "quickgelu"
    clip = write_open_clip(folder, architecture)
    if row.tag is None:
        return Published(folder, Given(), of_open_clip(clip))
    torch.save(clip.state_dict(), folder / "weights.pt")
    return Published(folder / "weights.pt", Given(row.name), of_open_clip(clip))


def of_open_clip(clip: Any) -> Embed:
    return lambda tokens, pixels: (clip.encode_text(tokens), clip.encode_image(pixels))


def easynlp(row: PublishedModel, folder: Path) -> Published:
    architecture = open_clip.get_model_config(row.architecture)
    clip = write_open_clip(folder / "source", architecture)
    write_easynlp(folder / "theirs", clip, architecture)
    tensors = {f"open_clip.{name}": value for name, value in clip.state_dict().items()}
    heads, patch = architecture["text_cfg"]["heads"], architecture["vision_cfg"]["patch_size"]

    def embed(tokens: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return easynlp_text(tensors, tokens, heads), easynlp_image(tensors, pixels, patch)

    return Published(folder / "theirs", Given(), embed)


def hugging_face(row: PublishedModel, folder: Path) -> Published:
    act = {"quickgelu": "quick_gelu", "gelu": "gelu"}.get(row.activation)
    model = write_hugging_face_clip(folder, act, True) if act else write_siglip2(folder, True)

    def embed(tokens: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text = model.get_text_features(input_ids=tokens)
        return text.pooler_output, model.get_image_features(pixel_values=pixels).pooler_output

    return Published(folder, Given(), embed)


def chinese_resnet(folder: Path, shapes: Shapes) -> Published:
    state, embed = plain_reference(shapes)
    visual = shaken(open_clip.create_model("RN50").visual, NOISE)
    text = {
        name: value
        for name, value in state.items()
        if not name.startswith("visual.") and "pooler" not in name
    }
    image = {f"visual.{name}": value for name, value in visual.state_dict().items()}

    folder.mkdir()
    (folder / "vocab.txt").write_bytes(vocabulary())
    torch.save({"state_dict": text | image}, folder / "clip_cn_rn50.pt")
    narrow = torch.zeros(1, 3, 224, 224)
    return Published(
        folder / "clip_cn_rn50.pt",
        Given(),
        lambda tokens, pixels: (embed(tokens, narrow)[0], visual(pixels)),
    )


def rows() -> Iterator[Any]:
    """Yield the rows, one of those that are published in the same shapes, form and activation.

    In `make test` runs the first one of each form.
    """
    seen, forms = set(), set()
    for row in FAMILY:
        kind = row.form, row.architecture or row.towers, row.activation
        if kind in seen:
            continue
        is_large = "ViT-L" in row.towers
        mark = pytest.mark.large if is_large else pytest.mark.full
        yield pytest.param(row, id=row.name, marks=mark if is_large or row.form in forms else ())
        seen.add(kind)
        forms |= set() if is_large else {row.form}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)  # gigabytes


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_data(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("row", list(rows()))
def test_a_row_in_its_true_shapes_is_imported_evaluated_and_trained(
    row: PublishedModel, folder: Path, pairs: TinyData
) -> None:
    path, given, embed = published(row, folder / "published")
    import_model(path, folder / "ours", given)
    shutil.rmtree(folder / "published")

    towers = load_towers(folder / "ours", "cpu")
    assert round(sum(value.numel() for value in towers.clip.parameters()) / 1e6) == row.parameters
    difference = largest_difference(towers, embed)
    LOG.info("%s: %.1e", row.name, difference)
    assert difference <= 1e-5

    two = pair_input(towers.input_spec, pairs.valid_index().take(np.arange(2)))
    assert 0 <= evaluate_split(towers, two, 2, 2, 0).mean_recall <= 1
    assert_learns(towers, pairs)


@torch.inference_mode()
def largest_difference(towers: Towers, embed: Embed) -> float:
    """Return how far embeddings of captions and images are from the reference's at most."""
    towers.clip.eval()
    noise = torch.randint(
        0, 128, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    images = noise + torch.tensor([[0, 0, 127], [127, 64, 0]], dtype=torch.uint8)[:, :, None, None]
    theirs = embed(towers.tokenizer(CAPTIONS), pixels_of(towers, images))
    ours = encode_texts(towers, CAPTIONS), encode_images(towers, images)
    assert all(float(mine.std(dim=0).mean()) > 1e-4 for mine in ours), "captions and images differ"
    return max(
        float((mine - normalize(other, dim=-1)).abs().max())
        for mine, other in zip(ours, theirs, strict=True)
    )


def assert_learns(towers: Towers, pairs: TinyData) -> None:
    """Train on one batch twice; the loss falls."""
    config = tiny_stage_config(batch_size=2, lr=1e-6, concept_weight=0.0)
    objective = Objective(towers, config, None)
    update = Updater(towers, objective, make_optimizer(towers.clip, objective, config), config)
    batch = load_batch(
        pair_input(towers.input_spec, pairs.train_index()), np.arange(2), Crop(towers.image_size)
    )
    first, second = (float(update(batch, None)["loss"]) for _ in range(2))
    assert second < first
