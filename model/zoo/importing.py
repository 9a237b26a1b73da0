"""A published model becomes a model folder of ours, checked key by key; and a model folder theirs.

The published tensors are streamed from their file into ours, so memory holds the file's pages and
no copy. Nothing of what was published is run, and no network is asked.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from model.errors import CheckpointError, ConfigError, nearest
from model.storage.files import file_digest
from model.storage.sealed import WEIGHTS_FILE, sealed_folder, whole_folder
from model.towers.folder import CONFIG_FILE, build_clip, build_tokenizer, load_towers
from model.towers.imported import ORIGIN_FILE
from model.zoo.forms import FORMS, recognise
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import import_tensors

SHOWN_KEYS = 3
SCALARS = ("logit_scale", "logit_bias")
CLIP_PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
KNOWN_PREPROCESS = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "squash")}
# What libraries raise on a config or tokeniser that makes no sense to them.
SENSELESS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def import_model(
    path: Path, folder: Path, given: Given, sha256: str | None = None, licence: str | None = None
) -> dict[str, str]:
    """Make a model folder of a published model and return its origin: form, file, its SHA-256,
    licence.

    Raises:
        ConfigError: what the user must say is missing or unknown.
        CheckpointError: no form knows the path, its files are damaged, hostile or of another
            architecture, or the weights file has not the SHA-256 (hex) that was given.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    form = recognise(path)
    if form is None:
        known = "; ".join(form.ABOUT for form in FORMS)
        raise CheckpointError(f"{path}: no published form that this project knows ({known})")
    published: ForeignModel = form.read(path, given)
    digest = file_digest(published.weights)
    if sha256 is not None and digest != sha256.lower():
        raise CheckpointError(
            f"{published.weights}: SHA-256 is {digest}, not {sha256}; fetch it again"
        )
    origin = {
        "form": published.form,
        "file": published.weights.name,
        "sha256": digest,
        "licence": licence or published.licence or "unknown",
    }

    with sealed_folder(folder) as temporary:
        _write_config(published, temporary)
        check_tensors(published, temporary)
        tensors = _scalars(published.tensors)
        import_tensors(tensors, published.weights, temporary / WEIGHTS_FILE)
        (temporary / ORIGIN_FILE).write_text(json.dumps(origin, indent=2), encoding="utf-8")
    return origin


def _write_config(published: ForeignModel, folder: Path) -> None:
    """Write config and tokeniser, and try whether captions can be read by it."""
    preprocess = _checked_preprocess(
        CLIP_PREPROCESS | published.preprocess, published.weights.parent
    )
    config = {"model_cfg": published.architecture, "preprocess_cfg": preprocess}
    if published.is_verbatim:
        config["tokenizer_cfg"] = {"is_verbatim": True}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name, content in published.files.items():
        (folder / name).write_bytes(content)
    vocabulary = published.architecture["text_cfg"].get("vocab_size")
    try:
        ids = build_tokenizer(folder)(["a red shirt"])
    except SENSELESS as error:
        raise CheckpointError(
            f"{published.weights.parent}: its tokeniser cannot be used ({error})"
        ) from None
    if isinstance(vocabulary, int) and int(ids.max()) >= vocabulary:
        raise CheckpointError(
            f"{published.weights.parent}: its tokeniser gives token {int(ids.max())}, its towers know {vocabulary}"
        )


def _checked_preprocess(preprocess: dict[str, Any], folder: Path) -> dict[str, Any]:
    for name in ("mean", "std"):
        values = preprocess[name]
        if (
            not isinstance(values, list)
            or len(values) != 3
            or not all(type(value) in (int, float) for value in values)
        ):
            raise CheckpointError(f"{folder}: {name} of the pixels is {values!r}, no three numbers")
    for name, known in KNOWN_PREPROCESS.items():
        if preprocess[name] not in known:
            raise CheckpointError(
                f"{folder}: {name} is {preprocess[name]!r}, known are {' and '.join(known)}"
            )
    return preprocess


def check_tensors(published: ForeignModel, folder: Path) -> None:
    """Compare the published tensors with what the architecture wants, key by key and shape by
    shape.

    ``folder`` has the config, and the files of the text tower where the architecture needs some.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape; the first few are named.
    """
    try:
        with torch.device("meta"):
            wanted = {
                name: tuple(tensor.shape)
                for name, tensor in build_clip(folder, "meta").state_dict().items()
            }
    except SENSELESS as error:
        raise CheckpointError(
            f"{published.weights}: no towers of its config can be built ({error})"
        ) from None
    found = {name: tuple(tensor.shape) for name, tensor in _scalars(published.tensors).items()}
    reshaped = [
        name for name in sorted(wanted.keys() & found.keys()) if found[name] != wanted[name]
    ]
    problems = [
        *_listed("missing", sorted(wanted.keys() - found.keys())),
        *_listed("unknown", sorted(found.keys() - wanted.keys())),
        *_listed(
            "of another shape", [f"{name}: {found[name]}, not {wanted[name]}" for name in reshaped]
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{published.weights}: weights of another architecture, {'; '.join(problems)}"
        )


def _listed(what: str, keys: list[str]) -> Iterable[str]:
    if keys:
        yield f"{len(keys)} {what} ({', '.join(keys[:SHOWN_KEYS])}{', …' if len(keys) > SHOWN_KEYS else ''})"


def _scalars(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with scale and bias as scalars, which some files have as vectors of one."""
    one = {
        name: tensors[name].reshape(())
        for name in SCALARS
        if name in tensors and tensors[name].numel() == 1
    }
    return tensors | one


def convert_model(folder: Path, to: str, out: Path) -> None:
    """Write a model folder of ours in a published form.

    Raises:
        ConfigError: the form is unknown.
        CheckpointError: the folder is damaged, the form has no place for these towers, or ``out``
        is there already.
    """
    names = dict.fromkeys(form.NAME for form in FORMS)
    if to not in names:
        raise ConfigError(
            f"--to {to}: no such form{nearest(to, names)} (known: {', '.join(names)})"
        )
    if out.exists():
        raise CheckpointError(f"{out}: is there already; name a new folder")
    towers = load_towers(folder, "cpu")
    form: ModuleType | None = next(
        (form for form in FORMS if to == form.NAME and form.holds(towers)), None
    )
    if form is None:
        able = dict.fromkeys(form.NAME for form in FORMS if form.holds(towers))
        raise CheckpointError(
            f"{folder}: the form {to} has no place for these towers; {' and '.join(able)} has"
        )
    with whole_folder(out) as temporary:
        form.write(towers, temporary)
