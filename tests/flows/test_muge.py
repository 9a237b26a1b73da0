"""Chinese from end to end: MUGE's files and EasyNLP's model in, a champion and its ranks out."""

import base64
import json
from pathlib import Path

import pytest
import torch

from flows.__main__ import main
from model.config.load import load_config
from model.embeddings.embed import embed_captions, embed_encoded_images
from model.towers.create import create_towers
from model.towers.folder import load_towers
from model.zoo.forms import easynlp_chinese
from tasks.runtime.environment import ROOT, state_folder
from tests.chinese import ENGLISH, chinese, write_chinese_model
from tests.tiny import drawn_jpeg

MODEL = "clip_chinese_roberta_base_vit_base"
KNOBS = {
    "registered_model": "muge",
    "precision": "fp32",
    "workers": 0,
    "data.valid_share": 0.2,
    "model.context_length": 12,
    "finetune.batch_size": 16,
    "finetune.lr": 3e-3,
    "finetune.warmup_steps": 1,
    "evaluate.gallery_queries": 3,
}


def write_muge(folder: Path) -> None:
    """Write MUGE's own release: queries with several images each, a test split without answers."""
    folder.mkdir()
    for split, seeds in (("train", (1, 2)), ("valid", (3, 4))):
        pictures = {
            100 * seed + row: drawn_jpeg(name, seed)
            for seed in seeds
            for row, name in enumerate(ENGLISH)
        }
        lines = [
            f"{key}\t{base64.urlsafe_b64encode(image).decode()}\n"
            for key, image in pictures.items()
        ]
        (folder / f"MR_{split}_imgs.tsv").write_text("".join(lines))
        queries = [
            {"query_id": row, "query_text": chinese(name) + ("新款" if split == "valid" else ""),
             "item_ids": [100 * seed + row for seed in seeds], "query_feature": None}
            for row, name in enumerate(ENGLISH)
        ]  # fmt: skip
        content = "".join(json.dumps(query, ensure_ascii=False) + "\n" for query in queries)
        (folder / f"MR_{split}_queries.jsonl").write_text(content, encoding="utf-8")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Return a tiny model as EasyNLP publishes its Chinese ones."""
    folder = tmp_path / MODEL
    folder.mkdir()
    easynlp_chinese.write(create_towers(write_chinese_model(tmp_path), "cpu"), folder)
    return folder


@pytest.mark.usefixtures("prefect_server")
def test_muge_runs_from_its_own_files_to_a_champion_with_a_chinese_gallery(
    tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    write_muge(tmp_path / "muge")
    assert main(["models", "import", str(published), "--as", MODEL]) == 0
    for split, options in (("train", []), ("valid", ["--set", "split=test"])):
        queries = str(tmp_path / "muge" / f"MR_{split}_queries.jsonl")
        assert main(["import", "muge", queries, "--out", str(pairs), *options]) == 0
    knobs = [part for key, value in KNOBS.items() for part in ("--set", f"{key}={value}")]
    config = str(ROOT / "configs/muge-base.yaml")
    assert main(["retrain", "--config", config, "--data", str(pairs), *knobs]) == 0
    assert "muge version 1: Rank@K on test" in capsys.readouterr().out
    (run,) = state_folder().glob("runs/muge-base-*")
    page = (run / "evaluate" / "gallery.html").read_text(encoding="utf-8")
    assert (
        chinese("red shirt")[:2] in page
        and "新款" in page
        and (run / "evaluate" / "gallery.png").is_file()
    )

    # Ranks, by comparing every caption with every picture of the test split.
    metrics = json.loads((run / "evaluate" / "result.json").read_text())["metrics"]
    towers = load_towers(next((run / "finetune").glob("best-*")), "cpu")
    assert towers.tokenizer(["红"]).shape == (1, 12), (
        "the config's length, not the 32 of the published model"
    )
    text = embed_captions(towers, [chinese(name) + "新款" for name in ENGLISH])
    image = embed_encoded_images(
        towers, [drawn_jpeg(name, seed) for seed in (3, 4) for name in ENGLISH]
    )
    owner = torch.arange(len(ENGLISH)).repeat(2)
    similarity = text.double() @ image.double().T
    for k in (1, 5, 10):
        first = similarity.argsort(dim=1, descending=True)[:, :k]
        found = (owner[first] == torch.arange(len(ENGLISH))[:, None]).any(dim=1)
        assert metrics[f"text_to_image_rank_at_{k}"] == pytest.approx(
            found.double().mean().item(), abs=0.04
        )


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("muge-base", MODEL),
        ("muge-large", MODEL.replace("vit_base", "vit_large")),
        ("easynlp-cn", MODEL),
    ],
)
def test_chinese_configs_have_the_numbers_of_easynlps_script(name: str, model: str) -> None:
    config = load_config(ROOT / f"configs/{name}.yaml")
    stage = config.finetune
    assert (config.name, config.seed, config.model.pretrained, config.model.context_length) == (
        name,
        42,
        model,
        32,
    )
    assert (stage.lr, stage.batch_size, stage.epochs, stage.weight_decay) == (1e-6, 32, 1, 1e-4)
    assert Path(ROOT / config.model.name).is_file()


def test_the_english_config_has_the_numbers_of_easynlps_script() -> None:
    config = load_config(ROOT / "configs/easynlp-en.yaml")
    assert (config.seed, config.model.pretrained) == (42, "pai-clip-commercial-base-en")
    assert (config.finetune.lr, config.finetune.batch_size, config.finetune.epochs) == (1e-6, 32, 1)
