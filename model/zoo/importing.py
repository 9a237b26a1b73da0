"""A published model becomes a model folder of ours, checked key by key; and a model folder theirs.

Nothing of what was published is run, and no network is asked. The published tensors stay in their
file until ours is written, so an import holds the file in memory once.
"""

from dataclasses import replace
from pathlib import Path

import torch

from model.errors import CheckpointError, ConfigError, nearest
from model.storage.sealed import WEIGHTS_FILE, sealed_folder, whole_folder
from model.towers.folder import CONFIG_FILE, build_clip, build_tokenizer, load_towers
from model.towers.imported import ORIGIN_FILE
from model.zoo.folders import write_json
from model.zoo.forms import FORMS
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import import_tensors, weights_digest

LISTED_KEYS = 3
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
    """Make a model folder of a published model.

    Returns the model's origin: form, file, the file's SHA-256 (hex) and licence.

    Raises:
        ConfigError: what the user must state is missing or unknown.
        CheckpointError: no form knows the path, its files are damaged, hostile or of another
            architecture, or the weights file does not have the SHA-256 (hex) that was given.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    form = next((form for form in FORMS if form.recognises(path)), None)
    if form is None:
        known = "; ".join(form.ABOUT for form in FORMS)
        raise CheckpointError(f"{path}: no published form that this project knows ({known})")
    foreign: ForeignModel = form.read(path, given)

    # Some files have scale and bias as vectors of one.
    scalars = {
        name: foreign.tensors[name].reshape(())
        for name in ("logit_scale", "logit_bias")
        if name in foreign.tensors and foreign.tensors[name].numel() == 1
    }
    foreign = replace(foreign, tensors=foreign.tensors | scalars)

    digest = weights_digest(foreign.weights)
    if sha256 is not None and digest != sha256.lower():
        raise CheckpointError(
            f"{foreign.weights}: SHA-256 is {digest}, not {sha256}; fetch it again"
        )
    origin = {
        "form": foreign.form,
        "file": foreign.weights.name,
        "sha256": digest,
        "licence": licence or foreign.licence or "unknown",
    }

    with sealed_folder(folder) as temporary:
        _write_config(foreign, temporary)
        check_tensors(foreign, temporary)
        import_tensors(foreign.tensors, foreign.weights, temporary / WEIGHTS_FILE)
        write_json(temporary / ORIGIN_FILE, origin)
    return origin


def _write_config(foreign: ForeignModel, folder: Path) -> None:
    """Write config and tokeniser, and try whether captions can be read by it."""
    source, preprocess = foreign.weights.parent, CLIP_PREPROCESS | foreign.preprocess
    for name in ("mean", "std"):
        values = preprocess[name]
        if (
            not isinstance(values, list)
            or len(values) != 3
            or not all(type(value) in (int, float) for value in values)
        ):
            raise CheckpointError(f"{source}: {name} of the pixels is {values!r}, no three numbers")
    for name, known in KNOWN_PREPROCESS.items():
        if preprocess[name] not in known:
            raise CheckpointError(
                f"{source}: {name} is {preprocess[name]!r}, known are {' and '.join(known)}"
            )

    config = {"model_cfg": foreign.architecture, "preprocess_cfg": preprocess}
    if foreign.is_verbatim:
        config["tokenizer_cfg"] = {"is_verbatim": True}
    write_json(folder / CONFIG_FILE, config)
    for name, content in foreign.files.items():
        (folder / name).write_bytes(content)

    try:
        largest = int(build_tokenizer(folder)(["a red shirt"]).max())
    except SENSELESS as error:
        raise CheckpointError(f"{source}: its tokeniser cannot be used ({error})") from None
    vocabulary = foreign.architecture["text_cfg"].get("vocab_size")
    if isinstance(vocabulary, int) and largest >= vocabulary:
        raise CheckpointError(
            f"{source}: its tokeniser gives token {largest}, its towers know {vocabulary}"
        )


def check_tensors(foreign: ForeignModel, folder: Path) -> None:
    """Compare the tensors with those of the architecture, key by key and shape by shape.

    ``folder`` has the config, and the files of the text tower where the architecture needs some.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape; the first few are named.
    """
    try:
        with torch.device("meta"):
            wanted = _shapes(build_clip(folder, "meta").state_dict())
    except SENSELESS as error:
        raise CheckpointError(
            f"{foreign.weights}: no towers of its config can be built ({error})"
        ) from None

    found = _shapes(foreign.tensors)
    reshaped = [
        f"{name}: {found[name]}, not {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name] != wanted[name]
    ]
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(found.keys() - wanted.keys()),
        "of another shape": reshaped,
    }
    listed = "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:LISTED_KEYS])}{', …' if keys[LISTED_KEYS:] else ''})"
        for what, keys in problems.items()
        if keys
    )
    if listed:
        raise CheckpointError(f"{foreign.weights}: weights of another architecture, {listed}")


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


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

    # Several forms share a name: one for English towers, one for Chinese.
    towers = load_towers(folder, "cpu")
    able = [form for form in FORMS if form.holds(towers)]
    form = next((form for form in able if to == form.NAME), None)
    if form is None:
        others = " and ".join(dict.fromkeys(form.NAME for form in able))
        raise CheckpointError(
            f"{folder}: the form {to} has no place for these towers; {others} has"
        )
    with whole_folder(out) as temporary:
        form.write(towers, temporary)
