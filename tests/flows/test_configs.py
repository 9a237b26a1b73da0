"""The configs of the large models run whole, on pairs and towers that take seconds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flows.__main__ import main
from model.config.load import load_config
from tasks.registry.tracking import tracking_client
from tasks.runtime.environment import ROOT, state_folder
from tests.golden import picture
from tests.joined import TRUNK, write_bert, write_trunk
from tests.model.importers.test_fashion_gen import column, write_h5
from tests.tiny import COLOURS, THINGS, write_model

Retrain = Callable[..., str]
SHRUNK = {
    "epochs": 1,
    "batch_size": 16,
    "micro_batch_size": 8,
    "queue_size": 64,
    "min_concept_count": 2,
    "warmup_steps": 1,
}


@pytest.fixture
def retrain(tmp_path: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]) -> Retrain:
    """Run a config on a folder of pairs, its knobs shrunk, and return what was printed."""
    architecture = write_model(tmp_path).name

    def run(name: str, data: Path, *stages: str) -> str:
        knobs = [f"{stage}.{key}={value}" for stage in stages for key, value in SHRUNK.items()]
        knobs += [
            f"registered_model={name}",
            f"model.name={architecture}",
            "model.pretrained=null",
            "workers=0",
        ]
        knobs += [
            "data.valid_share=0.2",
            "data.pretrain_valid_share=0.2",
            "evaluate.gallery_queries=2",
        ]
        options = [part for knob in knobs for part in ("--set", knob)]
        capsys.readouterr()
        assert (
            main(
                [
                    "retrain",
                    "--config",
                    str(ROOT / f"configs/{name}.yaml"),
                    "--data",
                    str(data),
                    *options,
                ]
            )
            == 0
        )
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def fashion_gen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return Fashion-Gen's two files: two poses of each of 32 products, and of 16 others.

    Poses share their words.
    """
    folder = tmp_path_factory.mktemp("fashion-gen")
    names = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    for split, fabric, products, seed in (
        ("train", "silk", names, 0),
        ("validation", "wool", names[::2], 500),
    ):
        texts = column(*(f"{name.capitalize()} in {fabric}." for name in products for _ in "ab"))
        rows = len(texts)
        write_h5(
            folder / f"fashiongen_256_256_{split}.h5",
            np.stack([np.asarray(picture(32, 32, seed + row)) for row in range(rows)]),
            index=np.arange(rows)[:, None],
            input_description=texts,
            input_productID=seed + np.arange(rows)[:, None] // 2,
            input_msrpUSD=None,
            **dict.fromkeys(
                ("input_name", "input_category", "input_subcategory", "input_brand"), texts
            ),
        )
    return folder


def finetuned(name: str) -> dict[str, object]:
    (result,) = state_folder().glob(f"runs/{name}-*/finetune/result.json")
    found: dict[str, object] = json.loads(result.read_text())
    return found


@pytest.mark.full
@pytest.mark.parametrize("name", ["fashion-gen-base", "fashion-gen-large"])
def test_fashion_gen_runs_from_its_own_files_to_a_champion(
    name: str, retrain: Retrain, fashion_gen: Path, tmp_path: Path
) -> None:
    config = load_config(ROOT / f"configs/{name}.yaml")
    assert (config.finetune.epochs, config.precision) == (20, "bf16")
    assert main(["import", "fashion-gen", str(fashion_gen), "--out", str(tmp_path / "pairs")]) == 0
    printed = retrain(name, tmp_path / "pairs", "finetune")
    assert f"{name} version 1: Rank@K on test" in printed and "retention" not in printed
    assert finetuned(name)["coefficient"] in (*config.finetune.interpolation, 1.0)


def test_commerce_pretrain_runs_both_stages_and_tells_what_fine_tuning_forgot(
    retrain: Retrain, miniature: Path
) -> None:
    config = load_config(ROOT / "configs/commerce-pretrain.yaml")
    assert config.pretrain.queue_size == 65_536 and config.pretrain.concept_weight > 0
    printed = retrain("commerce-pretrain", miniature, "pretrain", "finetune")
    assert "mean recall on 10 held-out pretraining pairs" in printed
    kept = finetuned("commerce-pretrain")["retention"]
    client = tracking_client()
    logged = client.get_run(client.get_model_version("commerce-pretrain", "1").run_id).data.metrics
    assert kept == {
        "pairs": 10,
        "before": logged["retention/mean_recall_before"],
        "after": logged["retention/mean_recall_after"],
    }


@pytest.mark.full
def test_two_pretrained_towers_run_from_their_own_files_to_a_champion(
    retrain: Retrain, miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trunk(tmp_path / "trunk.safetensors")
    write_bert(tmp_path / "bert")
    knobs = {
        "MODEL__IMAGE_TOWER__NAME": TRUNK,
        "MODEL__IMAGE_TOWER__PRETRAINED": str(tmp_path / "trunk.safetensors"),
        "MODEL__IMAGE_TOWER__IMAGE_SIZE": "64",
        "MODEL__TEXT_TOWER__PRETRAINED": str(tmp_path / "bert"),
        "MODEL__TEXT_TOWER__CONTEXT_LENGTH": "16",
        "MODEL__EMBED_DIM": "8",
        "FINETUNE__LOCKED_IMAGE_EPOCHS": "1",
        "PRECISION": "auto",
    }
    for name, value in knobs.items():
        monkeypatch.setenv(f"COMMERCE_CLIP__{name}", value)
    printed = retrain("fashion-products-pretrained", miniature, "finetune")
    assert "fashion-products-pretrained version 1: Rank@K on test" in printed
    assert finetuned("fashion-products-pretrained")["precision"] in ("fp32", "bf16")
    kept = [path.name for path in state_folder().rglob("*-features-*.cache")]
    assert len([name for name in kept if name.startswith("image")]) >= 2
