"""The model card beside the weights, `README.md`: YAML head and text in the form of model hubs."""

import json
from pathlib import Path
from typing import Any

import yaml

from model.storage.files import atomic_write
from model.towers.imported import ORIGIN_FILE, find_imported
from tasks.evaluation.tables import (
    NEW,
    RANKS,
    Figures,
    audit_sentence,
    number,
    protocol_rows,
    slice_rows,
)
from tasks.pages.html import render
from tasks.runtime.environment import models_folder
from tasks.runtime.records import Run, TrainedModel

CARD_FILE = "README.md"
SCORED = {"mean_recall": "mean recall"} | {
    f"{way}_rank_at_{k}": f"{name} Rank@{k}"
    for way, name in (("text_to_image", "text to image"), ("image_to_text", "image to text"))
    for k in RANKS
}


def write_model_card(run: Run, model: TrainedModel, figures: Figures) -> Path:
    """Leave the card in the model folder and return its path.

    Raises:
        CheckpointError: the file cannot be written.
    """
    head = _head(run, model.folder, figures)
    card = render(
        "model_card.md.jinja",
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120),
        config=run.config,
        begin=_begin(run),
        data_version=run.data.version,
        model=model,
        figures=figures,
        protocols=protocol_rows(figures),
        audit=audit_sentence(figures),
        worst_slices=slice_rows(figures, is_worst=True),
        labels={
            column: number(by_prompt["ensemble"]["accuracy"]["value"])
            for column, by_prompt in figures["models"][NEW]["zero_shot"].items()
        },
    )

    path = model.folder / CARD_FILE
    with atomic_write(path) as file:
        file.write(card.encode())
    return path


def _head(run: Run, folder: Path, figures: Figures) -> dict[str, Any]:
    """Fill what hubs read: licence, tags, and the figures of the full set."""
    config, found = run.config, figures["models"][NEW]["protocols"]["full"]
    result = {
        "task": {
            "type": "zero-shot-image-classification",
            "name": "image-text retrieval, full set",
        },
        "dataset": {
            "type": "private",
            "name": config.name,
            "split": "test",
            "revision": run.data.version,
        },
        "metrics": [
            {"type": key, "name": name, "value": round(found[key]["value"], 5)}
            for key, name in SCORED.items()
        ],
    }

    licence = licence_of_model(folder)
    return {
        **({"license": licence.lower()} if licence else {}),
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "e-commerce", "product-search", "image-text-retrieval"],
        "model-index": [{"name": config.registered_model, "results": [result]}],
    }


def _begin(run: Run) -> str:
    """Name the architecture and weights that training began with; of a file never its folder."""
    model = run.config.model
    if model.image_tower is not None and model.text_tower is not None:
        towers = (model.image_tower, model.text_tower)
        return " beside ".join(_name(tower.name, tower.pretrained) for tower in towers)
    begin, name = model.pretrained, Path(model.name).stem
    if begin and find_imported(begin, models_folder()):
        return f"{Path(begin).name} (imported)"
    return _name(name, begin)


def _name(name: str | None, pretrained: str | None) -> str:
    if pretrained is None:
        return f"{Path(name or '').name} (random weights)"
    return f"{Path(name).name} ({Path(pretrained).name})" if name else Path(pretrained).name


def licence_of_model(folder: Path) -> str | None:
    """Return the licence of the published weights that a model folder began with, if known."""
    try:
        origin = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    licence = origin.get("licence") if isinstance(origin, dict) else None
    return licence if isinstance(licence, str) and licence != "unknown" else None
