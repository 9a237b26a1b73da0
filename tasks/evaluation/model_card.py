"""The model card that lies beside the weights: YAML head and text in the usual form of model hubs, `README.md`."""

from pathlib import Path
from typing import Any

import yaml

from model.storage.files import atomic_write
from model.towers.imported import find_imported
from tasks.evaluation.tables import NEW, audit_sentence, number, protocol_rows, slice_rows
from tasks.pages.text import escaped
from tasks.registry.zoo import licence_of_model
from tasks.runtime.environment import models_folder
from tasks.runtime.records import Run, TrainedModel

CARD_FILE = "README.md"
SCORED = {
    "mean_recall": "mean recall",
    **{
        f"{way}_rank_at_{k}": f"{name} Rank@{k}"
        for way, name in (("text_to_image", "text to image"), ("image_to_text", "image to text"))
        for k in (1, 5, 10)
    },
}


def write_card(run: Run, model: TrainedModel, figures: dict[str, Any]) -> Path:
    """Leave the card in the model folder and return its path.

    Raises:
        CheckpointError: the file cannot be written.
    """
    head = yaml.safe_dump(
        _head(run, model.folder, figures), sort_keys=False, allow_unicode=True, width=120
    )
    path = model.folder / CARD_FILE
    with atomic_write(path) as file:
        file.write(f"---\n{head}---\n\n{_text(run, model, figures)}".encode())
    return path


def _head(run: Run, folder: Path, figures: dict[str, Any]) -> dict[str, Any]:
    config, found = run.config, figures["models"][NEW]["protocols"]["full"]
    metrics = [
        {"type": key, "name": name, "value": round(found[key]["value"], 5)}
        for key, name in SCORED.items()
    ]
    dataset = {
        "type": "private",
        "name": config.name,
        "split": "test",
        "revision": run.data.version,
    }
    task = {"type": "zero-shot-image-classification", "name": "image-text retrieval, full set"}
    licence = licence_of_model(folder)
    return {
        **({"license": licence.lower()} if licence else {}),
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "e-commerce", "product-search", "image-text-retrieval"],
        "model-index": [
            {
                "name": config.registered_model,
                "results": [{"task": task, "dataset": dataset, "metrics": metrics}],
            }
        ],
    }


def _base(run: Run) -> str:
    """Return architecture and weights that training began with; of a file its name, never where it lies."""
    begin = run.config.model.pretrained
    if begin and find_imported(begin, models_folder()):
        return f"{Path(begin).name} (imported)"
    name = Path(run.config.model.name).stem
    return f"{name} ({Path(begin).name})" if begin else f"{name} (random weights)"


def _text(run: Run, model: TrainedModel, figures: dict[str, Any]) -> str:
    config = run.config
    worst = slice_rows(figures, is_worst=True)
    weak = "".join(
        f"- {_plain(row['column'])} {_plain(row['slice'])}: {row[NEW]} ({row['gap']})\n"
        for row in worst
    )
    return f"""# {config.registered_model}

Finds product pictures by words and words by pictures: two towers, {_base(run)}, embeddings L2-normalised, the dot
product is the similarity.

## Use

    import open_clip
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
    tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")

## Training

| | |
|---|---|
| config | {config.name} (SHA-256 `{config.digest()[:16]}`) |
| data version | `{run.data.version}` |
| epochs | {config.pretrain.epochs} of pretraining, {config.finetune.epochs} of fine-tuning (best: {model.best_epoch}) |
| weights | SHA-256 `{model.weights_sha256}` |

## Evaluation

{figures["captions"]:,} captions and {figures["images"]:,} pictures of test, in percent, ties against the model,
± the wider half of a 95 % bootstrap interval over products.

{_table(protocol_rows(figures))}
False negatives: {audit_sentence(figures)}.

## Where it is weak

{weak or "No slice falls below the rest by more than noise."}
## Limits

Made for products like those of its training data; captions in other languages, pictures of people and of anything that
the shop does not sell were not looked at. Mean recall on other data: measure it before you rely on it.
Zero-shot labels are guesses: {_labels(figures)}
"""


def _labels(figures: dict[str, Any]) -> str:
    found = figures["models"][NEW]["zero_shot"]
    return (
        ", ".join(
            f"{_plain(column)} {number(each['ensemble']['accuracy']['value'])} %"
            for column, each in found.items()
        )
        + " accurate on test."
        if found
        else "not measured, test has no labels."
    )


def _table(rows: list[dict[str, str]]) -> str:
    head = "| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0])
    return head + "\n" + "".join("| " + " | ".join(row.values()) + " |\n" for row in rows)


def _plain(text: str) -> str:
    """Return foreign text so that it cannot end a table's cell or begin markup."""
    return escaped(text).replace("|", "\\|").replace("`", "'")
