"""The served form of towers: the same embeddings and pixels as theirs, whatever comes in."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from model.batches.crops import centre_crop, decode_image
from model.config.sections import ModelConfig
from model.embeddings import served as served_module
from model.embeddings.embed import embed_captions
from model.embeddings.served import IMAGE_MODEL, TEXT_MODEL, ServedTowers
from model.embeddings.serving import write_served
from model.errors import FaultReason
from model.pairs import images
from model.storage.sealed import MANIFEST, sealed_folder
from model.towers.create import create_towers
from model.towers.folder import load_towers
from model.towers.onnx_export import quantise_text
from model.towers.towers import Towers, encode_images
from model.zoo.importing import import_model
from model.zoo.published import Given
from tests.chinese import write_chinese_model
from tests.published import (
    siglip_architecture,
    write_open_clip,
    write_siglip2,
    write_with_hugging_face_text,
)
from tests.tiny import write_model

TITLES = [
    "red shirt",
    "",
    "红色连衣裙 XL",
    "a long sleeved dress with pockets " * 20,
    "shoe",
    "bag",
]


def served_form(towers: Towers, folder: Path, external_bytes: int = 2**31) -> ServedTowers:
    with sealed_folder(folder) as temporary:
        write_served(towers, temporary, external_bytes)
    return ServedTowers(folder, threads=1)


@torch.inference_mode()
def largest_difference(towers: Towers, served: ServedTowers) -> float:
    """How far embeddings differ at most, one title or image at a time and all at once."""
    generator = torch.Generator().manual_seed(1)
    side = towers.image_size
    pixels = torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8, generator=generator)
    texts, images = embed_captions(towers, TITLES).numpy(), encode_images(towers, pixels).numpy()
    alone = np.concatenate([served.embed_captions([title]) for title in TITLES])
    return max(
        float(np.abs(texts - alone).max()),
        float(np.abs(texts - served.embed_captions(TITLES)).max()),
        float(np.abs(images - served.embed_pixels(pixels.numpy())).max()),
        float(np.abs(images[:1] - served.embed_pixels(pixels[:1].numpy())).max()),
    )


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return create_towers(write_model(tmp_path_factory.mktemp("architecture")), "cpu")


@pytest.fixture(scope="module")
def folder(towers: Towers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served folder whose weights lie outside of the graphs."""
    folder = tmp_path_factory.mktemp("served") / "served"
    served_form(towers, folder, external_bytes=10_000)
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> ServedTowers:
    return ServedTowers(folder, threads=1)


def test_embeddings_are_those_of_torch_with_weights_outside_of_the_graph(
    towers: Towers, served: ServedTowers, folder: Path
) -> None:
    assert (folder / f"{TEXT_MODEL}.data").is_file()
    assert largest_difference(towers, served) <= 1e-5


def test_nothing_in_gives_nothing_out(served: ServedTowers) -> None:
    assert served.embed_captions([]).shape == served.embed_images([]).shape == (0, 16)


def test_a_title_is_computed_without_padding(served: ServedTowers) -> None:
    assert [len(ids) for ids in served.token_ids(["red shirt", ""])] == [4, 2]


def bert(folder: Path) -> Towers:
    return create_towers(write_chinese_model(folder), "cpu")


def resnet(folder: Path) -> Towers:
    architecture = open_clip.get_model_config("RN50")
    architecture["embed_dim"] = 32
    architecture["vision_cfg"] |= {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
    architecture["text_cfg"] |= {"width": 32, "heads": 2, "layers": 1}
    path = folder / "tiny-resnet.json"
    path.write_text(json.dumps(architecture))
    return create_towers(ModelConfig(name=str(path)), "cpu")


def imported(write: Callable[[Path], object]) -> Callable[[Path], Towers]:
    def make(folder: Path) -> Towers:
        write(folder / "published")
        import_model(folder / "published", folder / "ours", Given())
        return load_towers(folder / "ours", "cpu")

    return make


def siglip(folder: Path) -> object:
    return write_open_clip(folder, siglip_architecture())


FAMILIES = {
    "bert": bert,
    "resnet": resnet,
    "siglip": imported(siglip),
    "siglip 2": imported(write_siglip2),
    "text tower of Hugging Face": imported(write_with_hugging_face_text),
}


@pytest.mark.parametrize(
    "family",
    [name if name == "bert" else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES],
)
def test_every_family_is_served_with_the_embeddings_of_torch(family: str, tmp_path: Path) -> None:
    towers = FAMILIES[family](tmp_path)
    towers.clip.eval()
    assert largest_difference(towers, served_form(towers, tmp_path / "served")) <= 1e-5


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name",
    ["ViT-B-32", "RN50", pytest.param("ViT-L-14", marks=pytest.mark.large)],
)
def test_true_shapes_are_served_with_the_embeddings_of_torch(name: str, tmp_path: Path) -> None:
    towers = create_towers(ModelConfig(name=name), "cpu")
    assert largest_difference(towers, served_form(towers, tmp_path / "served")) <= 1e-5
    shutil.rmtree(tmp_path / "served")


def test_eight_bits_change_an_embedding_little(
    served: ServedTowers, folder: Path, tmp_path: Path
) -> None:
    with sealed_folder(tmp_path / "int8") as small:
        for path in folder.iterdir():
            if not path.name.startswith(TEXT_MODEL) and path.name != MANIFEST:
                shutil.copy(path, small)
        quantise_text(folder / TEXT_MODEL, small / TEXT_MODEL)
    other = ServedTowers(tmp_path / "int8").embed_captions(TITLES)
    cosine = (other * served.embed_captions(TITLES)).sum(axis=1)
    assert 0.99 < cosine.min() < 1 - 1e-7


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    """Images of every mode and shape, with noise that shows each filter."""
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (61, 47, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(rng.integers(0, 65536, (40, 40), np.uint16))
    return {
        "JPEG": encoded(noise, "JPEG", quality=95),
        "turned": encoded(noise, "JPEG", exif=turned),
        "CMYK": encoded(noise.convert("CMYK"), "JPEG"),
        "grey": encoded(noise.convert("L"), "JPEG"),
        "PNG": encoded(noise, "PNG"),
        "palette": encoded(noise.convert("P"), "GIF"),
        "alpha": encoded(Image.merge("RGBA", (*noise.split(), noise.split()[0])), "PNG"),
        "16 bit": encoded(deep, "PNG"),
        "WebP": encoded(noise, "WEBP", lossless=True),
        "tiny": encoded(noise.resize((3, 2)), "PNG"),
        "long and thin": encoded(noise.resize((900, 20)), "PNG"),
        "tall and thin": encoded(noise.resize((20, 900)), "PNG"),
        "large": encoded(noise.resize((640, 480)), "JPEG"),
    }


@pytest.mark.parametrize("is_squashed", [False, True])
def test_pixels_are_within_two_levels_of_ours(towers: Towers, is_squashed: bool) -> None:
    reader = object.__new__(ServedTowers)
    image = {"side": 32, "is_squashed": is_squashed, "interpolation": "bicubic"}
    reader.settings = {"image": image}
    resizing = towers.resizing._replace(is_squashed=is_squashed)
    for kind, data in pictures().items():
        decoded = decode_image(data)
        assert not isinstance(decoded, FaultReason), kind
        ours = centre_crop(decoded, 32, resizing).numpy().astype(np.int16)
        assert np.abs(reader.pixels(data) - ours).max() <= 2, kind


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a readable JPEG"),
        (b"<svg/>", "not a readable JPEG"),
        (pictures()["JPEG"][:-300], "its end is missing"),
        (pictures()["PNG"][:-8], "its end is missing"),
        (encoded(Image.new("1", (20_000, 10)), "PNG"), "pixels, at most 25,000,000"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_sentence(
    served: ServedTowers, data: bytes, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^image 1: .*{reason}") as caught:
        served.embed_images([pictures()["PNG"], data])
    assert "\n" not in str(caught.value)


@pytest.mark.faults(kind="D3: served model", trials=4)
@pytest.mark.parametrize("name", [TEXT_MODEL, IMAGE_MODEL, "tokenizer.json", "served.json"])
def test_a_flipped_bit_is_found_before_anything_is_read(
    folder: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: missing or damaged"):
        ServedTowers(tmp_path / "copy")


def test_what_travels_alone_reads_images_as_the_project_does() -> None:
    assert served_module.IMAGE_FORMATS == images.FORMATS
    assert served_module.TURNS == images.ORIENTATIONS
    assert set(images.PILLOW_ERRORS) <= set(served_module.UNREADABLE_IMAGE)
    assert (served_module.MOST_PIXELS, served_module.LONGEST_SIDE) == (
        images.MAX_PIXELS,
        images.MAX_SIDE,
    )
