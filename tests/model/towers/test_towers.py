"""Towers are what open_clip makes of them, whole on disk, and a weights file only holds numbers."""

import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model.config.sections import ModelConfig
from model.embeddings.embed import embed_encoded_images
from model.errors import CheckpointError, ConfigError, ServiceError
from model.storage.sealed import WEIGHTS_FILE, verify_sealed, weights_sha256
from model.towers.create import create_towers
from model.towers.folder import CONFIG_FILE, load_towers, save_towers
from model.towers.towers import Towers, encode_images, encode_texts, resolve_device
from tests.tiny import SIDE, TINY_MODEL, WIDTH, drawn_jpeg, names

CAPTIONS = ["red shirt", "", "a blue bag with a very long caption " * 9, "naïve 連衣裙"]


def pictures(count: int = 4, side: int = SIDE) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)
    ]


def stacked(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


@torch.inference_mode()
def embedded(towers: Towers) -> tuple[torch.Tensor, torch.Tensor]:
    towers.clip.eval()
    return encode_images(towers, stacked(pictures())), encode_texts(towers, CAPTIONS)


def same_weights(one: Towers, other: Towers) -> bool:
    others = other.clip.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.clip.state_dict().items())


@pytest.fixture
def folder(tmp_path: Path, towers: Towers) -> Path:
    """Return a model folder."""
    save_towers(towers, tmp_path / "model")
    return tmp_path / "model"


def with_weights(model: ModelConfig, path: Path | str) -> ModelConfig:
    return ModelConfig(name=model.name, pretrained=str(path))


def test_random_weights_are_a_pure_function_of_the_seed(
    tiny_model: ModelConfig, towers: Towers
) -> None:
    torch.manual_seed(99)
    drawn = torch.rand(3)
    torch.manual_seed(99)
    again = create_towers(tiny_model, device="cpu", seed=0)
    assert torch.equal(torch.rand(3), drawn), "the caller's generator is left alone"
    assert same_weights(again, towers)
    assert not same_weights(create_towers(tiny_model, device="cpu", seed=1), towers)


def test_towers_know_their_sizes(towers: Towers) -> None:
    assert (towers.image_size, towers.embed_dim) == (SIDE, WIDTH)
    assert towers.config["model_cfg"] == TINY_MODEL


def test_embeddings_are_float32_of_unit_length_in_either_precision(tiny_model: ModelConfig) -> None:
    for precision in ("fp32", "bf16"):
        for embedding in embedded(create_towers(tiny_model, "cpu", precision)):
            assert embedding.dtype == torch.float32 and embedding.shape == (4, WIDTH)
            torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))


def test_towers_read_back_give_identical_embeddings(towers: Towers, folder: Path) -> None:
    read = load_towers(folder, device="cpu")
    assert same_weights(read, towers) and read.config == towers.config
    for ours, theirs in zip(embedded(read), embedded(towers), strict=True):
        assert torch.equal(ours, theirs)
    assert names(folder) == ["manifest.json", CONFIG_FILE, WEIGHTS_FILE]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_saving_again_replaces_the_folder_whole(tiny_model: ModelConfig, folder: Path) -> None:
    before = weights_sha256(folder)
    save_towers(create_towers(tiny_model, "cpu", seed=1), folder)
    assert weights_sha256(folder) != before and names(folder.parent) == ["model"]
    load_towers(folder, "cpu")


@torch.inference_mode()
def test_open_clip_itself_reads_the_folder_and_gives_the_same_embeddings(
    towers: Towers, folder: Path
) -> None:
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    clip.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    image = clip.encode_image(
        torch.stack([preprocess(picture) for picture in pictures()]), normalize=True
    )
    text = clip.encode_text(tokens, normalize=True)
    ours = embedded(towers)
    torch.testing.assert_close(ours[0], image, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1], text, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_an_encoded_image_gets_the_embedding_that_open_clip_gives_it(
    towers: Towers, folder: Path
) -> None:
    buffers = [io.BytesIO() for _ in range(4)]
    for buffer, picture in zip(buffers, pictures(), strict=True):
        picture.save(buffer, "PNG")
    ours = embed_encoded_images(towers, [buffer.getvalue() for buffer in buffers], batch_size=3)
    torch.testing.assert_close(ours, embedded(towers)[0], rtol=0, atol=1e-5)


@pytest.mark.faults(kind="D3: weights", trials=200)
def test_every_flipped_bit_of_a_model_folder_is_found(folder: Path, tmp_path: Path) -> None:
    rng, copy = random.Random(0), Path(shutil.copytree(folder, tmp_path / "copy"))
    files = sorted(copy.iterdir())
    for trial in range(200):
        # The small files get their share of flips, too.
        file = files[trial % len(files)]
        with file.open("r+b") as opened:
            place = rng.randrange(file.stat().st_size)
            opened.seek(place)
            byte = opened.read(1)[0]
            opened.seek(place)
            opened.write(bytes([byte ^ 1 << rng.randrange(8)]))
        with pytest.raises(CheckpointError, match=r"missing or damaged|no readable manifest"):
            verify_sealed(copy)
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(bytes([byte]))
    verify_sealed(copy)


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "no weights", "no folder"])
def test_a_damaged_model_folder_is_refused_in_a_sentence(folder: Path, damage: str) -> None:
    weights = folder / WEIGHTS_FILE
    whole = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    elif damage == "cut":
        weights.write_bytes(whole[:-5])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "no weights":
        weights.unlink()
    else:
        folder = folder / "none"
    with pytest.raises(CheckpointError, match="remove"):
        load_towers(folder, "cpu")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "ViT-B-23",
            r"model.name is 'ViT-B-23': open_clip knows no such model; did you mean 'ViT-B-\d+'\?",
        ),
        ("zzzzzz", "model.name is 'zzzzzz': open_clip knows no such model$"),
        (
            "configs/models/tiny-vti.json",
            r"no such file; did you mean 'configs/models/tiny-vit\.json'\?",
        ),
        ("nowhere/tiny.json", "model.name is 'nowhere/tiny.json': no such file$"),
    ],
)
def test_an_unknown_model_is_refused_with_the_nearest_one(
    name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    with pytest.raises(ConfigError, match=sentence):
        create_towers(ModelConfig(name=name), "cpu")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "no readable JSON"),
        ("[]", "embed_dim, vision_cfg, text_cfg missing"),
        ('{"embed_dim": 4, "text_cfg": {}}', "not an open_clip config, vision_cfg missing"),
        (
            json.dumps(TINY_MODEL | {"vision_cfg": {"widht": 32}}),
            "open_clip cannot build broken .*widht.*correct its JSON",
        ),
        (
            json.dumps(TINY_MODEL | {"text_cfg": {**TINY_MODEL["text_cfg"], "heads": 5}}),
            "open_clip cannot build broken",
        ),
    ],
)
def test_a_broken_architecture_is_refused_and_does_not_stand_in_the_way_of_the_next(
    tmp_path: Path, tiny_model: ModelConfig, text: str, sentence: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        create_towers(ModelConfig(name=str(path)), "cpu")
    create_towers(tiny_model, "cpu")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "mps"):
        with pytest.raises(
            ConfigError, match=f"device is '{name}', but this machine has none; set device to auto"
        ):
            resolve_device(name)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("kind", ["safetensors", "pt", "pt of a trainer", "bin"])
def test_a_good_local_weights_file_is_taken_whatever_the_seed(
    tmp_path: Path, tiny_model: ModelConfig, towers: Towers, kind: str
) -> None:
    weights = {name: value.contiguous() for name, value in towers.clip.state_dict().items()}
    path = tmp_path / f"weights.{kind.split()[0]}"
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "pt of a trainer":
        torch.save(
            {
                "epoch": 3,
                "state_dict": {f"module.{name}": value for name, value in weights.items()},
            },
            path,
        )
    else:
        torch.save(weights, path)
    assert same_weights(create_towers(with_weights(tiny_model, path), "cpu", seed=5), towers)


def test_a_missing_weights_file_is_refused(tmp_path: Path, tiny_model: ModelConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.pt': no such file; name a weights file, an open_clip tag or null"
    ):
        create_towers(with_weights(tiny_model, tmp_path / "none.pt"), "cpu")


def safetensors_of(path: Path, towers: Towers) -> bytes:
    save_file({name: value.contiguous() for name, value in towers.clip.state_dict().items()}, path)
    return path.read_bytes()


def pt_of(path: Path, towers: Towers) -> bytes:
    torch.save(towers.clip.state_dict(), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "write"), [("safetensors", safetensors_of), ("pt", pt_of), ("bin", pt_of)]
)
@pytest.mark.parametrize("share", [0.0, 0.00001, 0.3, 0.9999])
def test_a_weights_file_cut_anywhere_is_refused_in_a_sentence(
    tmp_path: Path,
    tiny_model: ModelConfig,
    towers: Towers,
    suffix: str,
    write: Callable[[Path, Towers], bytes],
    share: float,
) -> None:
    path = tmp_path / f"weights.{suffix}"
    whole = write(path, towers)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        CheckpointError, match=rf"weights\.{suffix}: not a readable weights file \(.*fetch it again"
    ) as caught:
        create_towers(with_weights(tiny_model, path), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, [1, 2], "text", {"a": 1}, {"state_dict": None}])
def test_a_file_that_holds_something_else_than_weights_is_refused(
    tmp_path: Path, tiny_model: ModelConfig, content: object
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises((CheckpointError, ConfigError), match=r"weights\.pt: "):
        create_towers(with_weights(tiny_model, tmp_path / "weights.pt"), "cpu")


class Poison:
    """Unpickles by making a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.faults(kind="X1: base weights", trials=1)
@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle", "inside a state dict"])
@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_code_in_a_weights_file_never_runs(
    tmp_path: Path, tiny_model: ModelConfig, kind: str, suffix: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"weights.{suffix}"
    poison = {"state_dict": {"logit_scale": Poison(canary)}} if "dict" in kind else Poison(canary)
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(poison))
        pickle.loads(path.read_bytes())
    else:
        torch.save(poison, path, _use_new_zipfile_serialization=kind != "legacy")
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert canary.is_dir(), "the poison works where it is let in"
    canary.rmdir()
    with pytest.raises(
        CheckpointError, match=r"not a readable weights file .* hold more than tensors"
    ) as caught:
        create_towers(with_weights(tiny_model, path), "cpu")
    assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_weights_of_another_architecture_are_refused_with_the_first_that_does_not_fit(
    tmp_path: Path, tiny_model: ModelConfig
) -> None:
    wider = tmp_path / "wider-test-model.json"
    wider.write_text(json.dumps(TINY_MODEL | {"embed_dim": 24}))
    save_towers(create_towers(ModelConfig(name=str(wider)), "cpu"), tmp_path / "wider")
    path = tmp_path / "wider" / WEIGHTS_FILE
    with pytest.raises(
        ConfigError, match=r"of another architecture than tiny-test-model .*text_projection"
    ) as caught:
        create_towers(with_weights(tiny_model, path), "cpu")
    assert "\n" not in str(caught.value)
    weights = load_file(path)
    del weights["visual.class_embedding"]
    save_file(weights, path)
    with pytest.raises(
        ConfigError, match=r"Missing key\(s\) in state_dict: \"visual.class_embedding\""
    ):
        create_towers(with_weights(ModelConfig(name=str(wider)), path), "cpu")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let open_clip know two tags of the tiny model, and fail every download."""
    tags = ["laion2b_s34b_b79k", "openai"]

    def refuse(config: dict[str, str]) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: tags)
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda name, tag: {"url": "https://weights.invalid/x.pt"}
    )
    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    return tags


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        ("laion2b_s34b_b79", "has no such weights; did you mean 'laion2b_s34b_b79k'?"),
        ("zzz", "has no such weights; known tags: laion2b_s34b_b79k, openai"),
    ],
)
def test_an_unknown_tag_is_refused_with_the_known_ones(
    tiny_model: ModelConfig, published: list[str], tag: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        create_towers(with_weights(tiny_model, tag), "cpu")
    assert str(caught.value).endswith(sentence)


def test_weights_that_cannot_be_downloaded_are_a_service_s_fault(
    tiny_model: ModelConfig, published: list[str]
) -> None:
    with pytest.raises(
        ServiceError, match=r"'openai' cannot be downloaded \(ConnectionError\); check the network"
    ):
        create_towers(with_weights(tiny_model, "openai"), "cpu")


@pytest.mark.parametrize(
    "error",
    [
        URLError("unknown host"),
        IncompleteRead(b""),
        RuntimeError("Model has been downloaded but the SHA256 checksum does not match"),
        TypeError("int() argument must be a string, not 'NoneType'"),
    ],
)
def test_whatever_breaks_a_download_is_a_service_s_fault(
    tiny_model: ModelConfig, published: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(config: dict[str, str]) -> str:
        raise error

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(ServiceError, match=rf"\({type(error).__name__}\); check the network"):
        create_towers(with_weights(tiny_model, "openai"), "cpu")


def test_downloaded_weights_are_loaded(
    folder: Path,
    towers: Towers,
    tiny_model: ModelConfig,
    published: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: str(folder / WEIGHTS_FILE))
    assert same_weights(create_towers(with_weights(tiny_model, "openai"), "cpu", seed=9), towers)


def test_a_jpeg_is_cropped_to_the_towers_size(towers: Towers) -> None:
    embedding = embed_encoded_images(towers, [drawn_jpeg("red bag", 1, side=40)])
    assert embedding.shape == (1, WIDTH)
