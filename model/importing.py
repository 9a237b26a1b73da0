"""A published model becomes a model folder of ours, checked key by key; and a model folder theirs.

The published tensors are streamed from their file into ours, so memory holds the file's pages and no copy. Nothing of
what was published is run, and no network is asked.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from model.checkpoint import sealed_folder, whole_folder
from model.errors import CheckpointError, ConfigError, nearest
from model.files import file_digest
from model.forms import FORMS, recognise
from model.forms.published import Published, Told
from model.towers import CONFIG_FILE, WEIGHTS_FILE, build_clip, load_towers

ORIGIN_FILE = "origin.json"
SHOWN_KEYS = 3


def import_model(path: Path, folder: Path, told: Told) -> dict[str, str]:
    """Make a model folder of a published model and return its origin: form, file, SHA-256 of the file, licence.

    Raises:
        ConfigError: what the user must say is missing or unknown.
        CheckpointError: no form knows the path, or its files are damaged, hostile or of another architecture.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    form = recognise(path)
    if form is None:
        known = "; ".join(f"{form.NAME}: {form.ABOUT}" for form in FORMS)
        raise CheckpointError(f"{path}: no published form that this project knows ({known})")
    published: Published = form.read(path, told)
    config = {"model_cfg": published.architecture, "preprocess_cfg": published.preprocess}
    origin = _origin(published)
    with sealed_folder(folder) as temporary:
        for name, content in published.files.items():
            (temporary / name).write_bytes(content)
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (temporary / ORIGIN_FILE).write_text(json.dumps(origin, indent=2), encoding="utf-8")
        check_tensors(published, temporary)
        save_file({name: _as_ours(tensor) for name, tensor in published.tensors.items()}, temporary / WEIGHTS_FILE)
    return origin


def convert_model(folder: Path, to: str, out: Path) -> None:
    """Write a model folder of ours in a published form.

    Raises:
        ConfigError: the form is unknown.
        CheckpointError: the folder is damaged, the form has no place for these towers, or ``out`` is there already.
    """
    forms = {form.NAME: form for form in FORMS}
    if to not in forms:
        raise ConfigError(f"{to}: no such form{nearest(to, forms)} (known: {', '.join(forms)})")
    if out.exists():
        raise CheckpointError(f"{out}: is there already; name a new folder")
    towers = load_towers(folder, "cpu")
    with whole_folder(out) as temporary:
        forms[to].write(towers, temporary)


def check_tensors(published: Published, folder: Path) -> None:
    """Compare the published tensors with what the architecture wants, key by key and shape by shape.

    ``folder`` has the config, and the files of the text tower where the architecture needs some.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape; the first few are named.
    """
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in build_clip(folder).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in published.tensors.items()}
    problems = [
        *_told("missing", sorted(wanted.keys() - found.keys())),
        *_told("unknown", sorted(found.keys() - wanted.keys())),
        *_told(
            "of another shape",
            [
                f"{name} {found[name]}, not {wanted[name]}"
                for name in sorted(wanted.keys() & found.keys())
                if found[name] != wanted[name]
            ],
        ),
    ]
    if problems:
        raise CheckpointError(f"{published.weights}: weights of another architecture: {'; '.join(problems)}")


def _told(what: str, keys: list[str]) -> Iterable[str]:
    if keys:
        yield f"{len(keys)} keys {what} ({', '.join(keys[:SHOWN_KEYS])}{', …' if len(keys) > SHOWN_KEYS else ''})"


def _origin(published: Published) -> dict[str, Any]:
    return {
        "form": published.form,
        "file": published.weights.name,
        "sha256": file_digest(published.weights),
        "licence": published.licence or "unknown",
    }


def _as_ours(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor.contiguous()
