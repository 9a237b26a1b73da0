"""Hostile, damaged and foreign files: one sentence each, nothing run, nothing left behind."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError, ConfigError
from model.storage.files import file_digest
from model.storage.sealed import WEIGHTS_FILE, weights_sha256
from model.towers.folder import load_towers
from model.towers.imported import recorded_weights_sha256
from model.zoo.importing import import_model
from model.zoo.published import Given
from model.zoo.tensors import read_tensors
from tests.published import (
    clip_architecture,
    contiguous,
    siglip_architecture,
    write_easynlp,
    write_open_clip,
)

WEIGHTS = "open_clip_pytorch_model.bin"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as published; copy them."""
    home = tmp_path_factory.mktemp("published")
    clip = write_open_clip(home / "safetensors", clip_architecture(True))
    shutil.copytree(home / "safetensors", home / "bin")
    (home / "bin/open_clip_model.safetensors").unlink()
    torch.save(contiguous(clip.state_dict()), home / "bin" / WEIGHTS)
    write_easynlp(home / "easynlp", clip, clip_architecture(True))
    write_open_clip(home / "siglip", siglip_architecture())
    return home


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine / "bin", tmp_path / "theirs"))


def refusal(path: Path, given: Given | None = None, **more: Any) -> str:
    """Return the one sentence of an import that fails and leaves nothing."""
    target = path.parent / "ours"
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        import_model(path, target, given or Given(), **more)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert not target.exists() and not target.with_name("ours.tmp").exists()
    return str(caught.value)


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = torch.load(folder / WEIGHTS, weights_only=True)
    change(tensors)
    torch.save(tensors, folder / WEIGHTS)


def reconfigured(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    change(config["model_cfg"])
    path.write_text(json.dumps(config))


class Poison:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.faults(kind="X1: imported weights", trials=1)
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("form", ["bin", "easynlp"])
def test_code_in_weights_never_runs(
    pristine: Path, tmp_path: Path, is_zip: bool, form: str
) -> None:
    folder = Path(shutil.copytree(pristine / form, tmp_path / "theirs"))
    weights = folder / ("pytorch_model.bin" if form == "easynlp" else WEIGHTS)
    tensors = torch.load(weights, weights_only=True) | {"logit_scale": Poison(tmp_path / "canary")}
    torch.save(tensors, weights, _use_new_zipfile_serialization=is_zip)
    assert "which loading would run as code; nothing of it was run" in refusal(folder)
    assert not (tmp_path / "canary").exists()


def test_a_torchscript_archive_is_refused_as_code(folder: Path) -> None:
    with zipfile.ZipFile(folder / WEIGHTS, "a") as archive:
        archive.writestr("archive/code/__torch__/model.py", "raise SystemExit")
    assert "a TorchScript archive, which is code; import its weights as .safetensors" in refusal(
        folder
    )


@pytest.mark.faults(kind="D4: imported weights cut", trials=1)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
@pytest.mark.parametrize("form", ["bin", "safetensors", "easynlp"])
def test_a_cut_file_is_refused(pristine: Path, tmp_path: Path, form: str, share: float) -> None:
    folder = Path(shutil.copytree(pristine / form, tmp_path / "theirs"))
    weights = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    assert f"{weights}: not a readable weights file (" in refusal(folder)


@pytest.mark.faults(kind="D3: imported weights, a bit flipped", trials=24)
def test_a_flipped_bit_in_a_zip_is_found_by_its_checksum(folder: Path) -> None:
    weights, rng = folder / WEIGHTS, np.random.default_rng(0)
    whole = weights.read_bytes()
    with zipfile.ZipFile(weights) as archive:
        members = [info for info in archive.infolist() if info.file_size]
    for _ in range(24):
        info = members[int(rng.integers(len(members)))]
        damaged = bytearray(whole)
        start = info.header_offset + 30 + len(info.filename)
        start += int.from_bytes(
            damaged[info.header_offset + 28 : info.header_offset + 30], "little"
        )
        damaged[start + int(rng.integers(info.file_size))] ^= 1 << int(rng.integers(8))
        weights.write_bytes(damaged)
        assert "damaged (CRC-32 of" in refusal(folder)


def compressed_anew(
    path: Path, compression: int = zipfile.ZIP_DEFLATED, largest: int = 1 << 30
) -> None:
    """Compress the records of a zip, as archive tools do that know nothing of torch."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            is_kept = len(content) > largest
            archive.writestr(name, content, zipfile.ZIP_STORED if is_kept else compression)


@pytest.fixture(scope="module", params=[zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def compressed(
    request: pytest.FixtureRequest, pristine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder whose weights were compressed anew, but for the largest (seconds); copy it."""
    folder = tmp_path_factory.mktemp("compressed") / "theirs"
    shutil.copytree(pristine / "bin", folder)
    compressed_anew(folder / WEIGHTS, request.param, largest=1 << 20)
    return folder


def test_a_zip_that_was_compressed_anew_holds_the_same_weights(folder: Path) -> None:
    wanted = torch.load(folder / WEIGHTS, weights_only=True)
    compressed_anew(folder / WEIGHTS)
    found = read_tensors(folder / WEIGHTS)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("trial", range(3))
def test_damage_in_a_zip_that_was_compressed_anew_is_found(
    compressed: Path, tmp_path: Path, trial: int
) -> None:
    folder = Path(shutil.copytree(compressed, tmp_path / "theirs"))
    damaged, rng = bytearray((folder / WEIGHTS).read_bytes()), np.random.default_rng(trial)
    with zipfile.ZipFile(folder / WEIGHTS) as archive:
        packed = [record for record in archive.infolist() if record.compress_type]
        record = max(packed, key=lambda record: record.compress_size)
    place = record.header_offset + 100 + int(rng.integers(record.compress_size - 200))
    damaged[place] ^= 1 << int(rng.integers(8))
    (folder / WEIGHTS).write_bytes(damaged)
    assert "fetch it again" in refusal(folder)


def test_a_record_that_is_said_to_lie_outside_of_its_zip_is_refused(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/"))
    content[entry + 42 : entry + 46] = b"\xf0\xff\xff\x7f"  # where its own header is
    (folder / WEIGHTS).write_bytes(content)
    assert "fetch it again" in refusal(folder)


def test_a_flipped_bit_in_safetensors_is_found_by_the_sha256_that_was_given(
    pristine: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pristine / "safetensors", tmp_path / "theirs"))
    weights = folder / "open_clip_model.safetensors"
    right = file_digest(weights)
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 4
    weights.write_bytes(damaged)
    assert f"{weights}: SHA-256 is {file_digest(weights)}, not {right}; fetch it again" in refusal(
        folder, sha256=right
    )
    shutil.copy(pristine / "safetensors/open_clip_model.safetensors", weights)
    origin = import_model(folder, tmp_path / "ours", Given(), right.upper(), licence="MIT")
    assert origin == {"form": "open_clip", "file": weights.name, "sha256": right, "licence": "MIT"}
    assert json.loads(load_towers(tmp_path / "ours", "cpu").files["origin.json"]) == origin


@pytest.mark.parametrize("values", [["nan"], ["inf"], ["inf", "-inf"]])
def test_weights_that_are_no_numbers_are_refused(folder: Path, values: list[str]) -> None:
    wrong = torch.tensor([float(value) for value in values])
    changed(folder, lambda tensors: tensors["visual.proj"].view(-1)[: len(wrong)].copy_(wrong))
    assert "visual.proj: holds NaN or infinity" in refusal(folder)


def test_a_file_in_our_form_is_copied_only_if_its_weights_are_numbers(
    pristine: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pristine / "safetensors", tmp_path / "theirs"))
    weights = folder / "open_clip_model.safetensors"
    tensors = load_file(weights)
    tensors["visual.proj"].view(-1)[3] = float("nan")
    save_file(tensors, weights)
    assert "visual.proj: holds NaN or infinity" in refusal(folder)


def test_a_pointer_of_git_lfs_is_told_from_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 605157884\n"
    )
    assert "a pointer of Git LFS, not the weights; fetch them by `git lfs pull`" in refusal(folder)


def test_a_lightning_checkpoint_beside_its_config_comes_in(folder: Path, tmp_path: Path) -> None:
    wanted = torch.load(folder / WEIGHTS, weights_only=True)
    (folder / WEIGHTS).unlink()
    theirs = {f"model.{name}": tensor for name, tensor in wanted.items()}
    torch.save({"epoch": 3, "optimizer_states": [], "state_dict": theirs}, folder / "last.ckpt")
    import_model(folder / "last.ckpt", tmp_path / "ours", Given())
    found = load_file(tmp_path / "ours" / WEIGHTS_FILE)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    torch.save({"state_dict": theirs | {"loss.scale": torch.ones(1)}}, folder / "last.ckpt")
    (tmp_path / "again").mkdir()
    sentence = refusal(Path(shutil.copytree(folder, tmp_path / "again" / "theirs")) / "last.ckpt")
    assert "another architecture, 1 unknown (loss.scale)" in sentence


def test_missing_unknown_and_misshaped_keys_are_counted_and_the_first_named(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".ln_1." in name]:
            tensors[f"extra.{name}"] = tensors.pop(name)
        tensors["visual.proj"] = tensors["visual.proj"][:, :3]

    changed(folder, change)
    sentence = refusal(folder)
    block = "transformer.resblocks.0.ln_1"
    assert f"8 missing ({block}.bias, {block}.weight, " in sentence
    assert "8 unknown (extra." in sentence
    assert "1 of another shape (visual.proj: (128, 3), not (128, 16))" in sentence


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    reconfigured(folder, lambda architecture: architecture["vision_cfg"].update(layers=3))
    assert (
        "weights of another architecture, 12 missing (visual.transformer.resblocks.2."
        in refusal(folder)
    )


def test_several_candidates_are_refused_and_one_of_them_can_be_named(
    pristine: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pristine / "safetensors", tmp_path / "theirs"))
    shutil.copy(
        folder / "open_clip_model.safetensors", folder / "open_clip_pytorch_model.safetensors"
    )
    both = "open_clip_model.safetensors, open_clip_pytorch_model.safetensors"
    assert f"several candidates ({both})" in refusal(folder)
    import_model(folder / "open_clip_model.safetensors", tmp_path / "ours", Given())
    (folder / "open_clip_pytorch_model.safetensors").unlink()
    shutil.copy(pristine / "bin" / WEIGHTS, folder / WEIGHTS)
    origin = import_model(folder, tmp_path / "both", Given())
    assert origin["file"] == "open_clip_model.safetensors", (
        "hubs publish the same weights in both formats"
    )


def test_a_folder_without_weights_and_what_is_no_model_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    (folder / WEIGHTS).unlink()
    assert f"{folder}: no weights file (" in refusal(folder)
    (tmp_path / "empty").mkdir()
    assert "no published form that this project knows" in refusal(tmp_path / "empty")
    assert "no such file or folder" in refusal(tmp_path / "nothing")
    (tmp_path / "text.bin").write_text("hello")
    assert "not a readable weights file" in refusal(
        tmp_path / "text.bin", Given("ViT-B-32-quickgelu")
    )


@pytest.mark.faults(kind="X2: links out of an imported folder", trials=1)
@pytest.mark.parametrize("name", ["open_clip_config.json", WEIGHTS])
def test_a_link_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    assert f"{folder / name}: a link out of its folder" in refusal(folder)


def test_the_links_of_hugging_faces_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "models--someone--clip"
    (model / "blobs").mkdir(parents=True)
    (model / "snapshots/1a2b").mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(model / "blobs" / f"hash-of-{path.name}")
        (model / "snapshots/1a2b" / path.name).symlink_to(f"../../blobs/hash-of-{path.name}")
    import_model(model / "snapshots/1a2b", tmp_path / "ours", Given())


HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda cfg: cfg["vision_cfg"].update(timm_model_name="hf-hub:evil/model"),
        "timm_model_name is 'hf-hub:evil/model'",
    ),
    (
        lambda cfg: cfg["vision_cfg"].update(timm_model_name="local-dir:/etc"),
        "which is no model of timm's",
    ),
    (
        lambda cfg: cfg["text_cfg"].update(tokenizer_kwargs={"bpe_path": "/etc/passwd"}),
        "tokenizer_kwargs may hold clean",
    ),
    (
        lambda cfg: cfg["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}),
        "tokenizer_kwargs may hold clean",
    ),
    (
        lambda cfg: cfg["text_cfg"].update(hf_model_name="evil/code"),
        "the text tower's config.json must lie beside",
    ),
    (
        lambda cfg: cfg["text_cfg"].update(hf_tokenizer_name="evil/code"),
        "no tokenizer.json, so captions cannot be read",
    ),
    (lambda cfg: cfg.update(vision_cfg=[1]), "vision_cfg and text_cfg must be mappings"),
    (lambda cfg: cfg.pop("embed_dim"), "no model_cfg with embed_dim, vision_cfg, text_cfg"),
    (lambda cfg: cfg["text_cfg"].update(colour="red"), "no towers of its config can be built"),
    (lambda cfg: cfg["text_cfg"].update(heads=7), "no towers of its config can be built"),
    (
        lambda cfg: cfg["vision_cfg"].update(timm_model_name="no_such_model"),
        "no towers of its config can be built",
    ),
    (
        lambda cfg: cfg["text_cfg"].update(vocab_size=300),
        "its tokeniser gives token 49407, its towers know 300",
    ),
]


@pytest.mark.faults(kind="X1: configs that fetch or run", trials=1)
@pytest.mark.parametrize(("change", "sentence"), HOSTILE)
def test_a_config_that_fetches_runs_or_makes_no_sense_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    reconfigured(folder, change)
    assert sentence in refusal(folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
        (b"[1]", "expected a mapping, found list"),
        (b" " * 1_000_001, "more than 1,000,000 bytes, so it is no config"),
    ],
)
def test_a_config_that_is_none_is_refused(folder: Path, content: bytes, sentence: str) -> None:
    (folder / "open_clip_config.json").write_bytes(content)
    assert sentence in refusal(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", [0.5]), ("std", "x"), ("interpolation", "../x"), ("resize_mode", 3)],
)
def test_pixels_that_make_no_sense_are_refused(folder: Path, name: str, value: object) -> None:
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"preprocess_cfg": {name: value}}))
    assert name in refusal(folder)


def test_a_tokeniser_that_brings_code_is_refused(pristine: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pristine / "siglip", tmp_path / "theirs"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    path.write_text(json.dumps(config))
    assert "asks to run code that came with it (auto_map); not imported" in refusal(folder)
    path.write_text("{}")
    (folder / "tokenizer.json").write_text('{"model": 1}')
    assert "its tokeniser cannot be used" in refusal(folder)


def test_the_folder_is_ours_sealed_and_damage_to_it_is_found(folder: Path, tmp_path: Path) -> None:
    import_model(folder, tmp_path / "ours", Given())
    weights = tmp_path / "ours" / WEIGHTS_FILE
    assert (
        weights_sha256(tmp_path / "ours")
        == recorded_weights_sha256(tmp_path / "ours")
        == file_digest(weights)
    )
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_towers(tmp_path / "ours", "cpu")
