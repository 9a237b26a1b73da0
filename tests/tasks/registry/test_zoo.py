"""Every row of the table is imported, evaluated, fine-tuned and exported; the terminal lists it."""

import json
from pathlib import Path

import pytest

from flows.__main__ import main
from model.config.load import RunConfig
from model.errors import CheckpointError, ConfigError, typed
from model.zoo.family import FAMILY, PublishedModel, find_published, licence_of
from tasks.evaluation.model_card import licence_of_model
from tasks.registry.zoo import export_published, import_published
from tasks.runtime.environment import models_folder
from tasks.runtime.lineage import architecture_id, base_weights_id
from tests.published import clip_architecture, publish, write_open_clip
from tests.runs import lineage
from tests.tiny import TinyData, tiny_stage_config, write_data

ENGLISH = [row for row in FAMILY if row.language in ("English", "many")]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_data(tmp_path_factory.mktemp("pairs"))


def test_names_are_unique_and_make_good_names_of_imported_models() -> None:
    names = [row.name for row in FAMILY]
    assert len(set(names)) == len(names)
    for row in FAMILY:
        assert RunConfig(name=row.name).name == row.name and find_published(row.name) is row
        assert row.licence == licence_of(row.name) and row.source and row.verified


@pytest.mark.parametrize(
    "row", [row for row in ENGLISH if row.architecture], ids=lambda row: row.name
)
def test_a_row_says_the_size_and_resolution_of_its_towers(row: PublishedModel) -> None:
    import open_clip
    import torch

    with torch.device("meta"):
        clip = open_clip.create_model(row.architecture, device="meta")
    assert round(sum(parameter.numel() for parameter in clip.parameters()) / 1e6) == row.parameters
    assert clip.visual.image_size in (row.resolution, (row.resolution, row.resolution))


def one_of_each_form_first() -> list[object]:
    """The English rows; in `make test` only the first one of each form."""
    forms = [row.form for row in ENGLISH]
    return [
        pytest.param(
            row,
            id=row.name,
            marks=() if forms.index(row.form) == place else pytest.mark.full,
        )
        for place, row in enumerate(ENGLISH)
    ]


@pytest.mark.parametrize("row", one_of_each_form_first())
def test_every_row_is_imported_evaluated_and_fine_tuned(
    row: PublishedModel, tmp_path: Path, pairs: TinyData
) -> None:
    from model.batches.loading import pair_input
    from model.evaluation.split import evaluate_split
    from model.towers.base import base_towers
    from model.towers.folder import load_towers
    from model.training.loop import train
    from model.training.stage import Callbacks, Stage

    publish(row, tmp_path / "published")
    folder, origin = import_published(tmp_path / "published", row.name, None, None, None, None)
    assert (
        folder == models_folder() / row.name
        and origin["licence"] == row.licence
        and origin["form"] == row.form
    )
    config = RunConfig.model_validate({"name": "x", "model": {"pretrained": row.name}})
    towers = base_towers(config.model, models_folder(), "cpu", "fp32", 0)
    train_pairs, valid = (
        pair_input(towers.input_spec, index) for index in (pairs.train_index(), pairs.valid_index())
    )
    before = evaluate_split(towers, valid, 32, 32, workers=0).mean_recall
    settings = tiny_stage_config(epochs=1, lr=1e-3, concept_weight=0.0)
    losses: list[dict[str, float]] = []
    stage = Stage(
        settings,
        train_pairs,
        lambda t: evaluate_split(t, valid, 32, 32, 0).metrics(),
        tmp_path / "run",
        0,
        workers=0,
    )
    state = train(towers, stage, Callbacks(on_step=lambda record: losses.append(record.losses)))
    tuned = load_towers(stage.folder / state.best_folder, "cpu")
    assert 0 <= before <= 1 and losses[-1]["loss"] < losses[0]["loss"]
    assert ("sigmoid" in losses[0]) == ("SigLIP" in str(row.architecture))
    assert (
        tuned.files["origin.json"]
        and licence_of_model(stage.folder / state.best_folder) == row.licence
    )
    export_published(str(stage.folder / state.best_folder), row.form, tmp_path / "back")


def test_base_weights_are_named_by_their_sha256_and_towers_by_the_manifest(tmp_path: Path) -> None:
    write_open_clip(tmp_path / "a", clip_architecture(True))
    folder, _ = import_published(tmp_path / "a", "one", None, None, None, None)
    config = RunConfig.model_validate({"name": "x", "model": {"pretrained": "one"}})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert base_weights_id(config) == f"sha256:{manifest['open_clip_model.safetensors']['sha256']}"
    assert architecture_id(config.model).startswith("imported:")
    with pytest.raises(
        CheckpointError, match="there is a model of that name; choose another, or remove the folder"
    ):
        import_published(tmp_path / "a", "one", None, None, None, None)
    for name in ("../x", "A", "", "a/b"):
        with pytest.raises(ConfigError, match="a name has small letters, digits"):
            import_published(tmp_path / "a", name, None, None, None, None)


def test_a_run_begins_with_the_imported_weights_and_carries_their_origin(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tasks.runtime.records import DataVersion, Run
    from tasks.training.base_weights import base_weights

    write_open_clip(tmp_path / "a", clip_architecture(True))
    imported, origin = import_published(tmp_path / "a", "one", None, None, None, "MIT")
    config = RunConfig.model_validate(
        {"name": "x", "device": "cpu", "model": {"pretrained": "one", "image_size": 48}}
    )
    data = DataVersion(folder=tmp_path, version="v" * 32, is_tracked=False, file_md5={})
    base = base_weights(
        Run(config=config, data=data, lineage=lineage(), folder=tmp_path / "run", mlflow_run_id="")
    )
    ours, theirs = (
        load_file(folder / "open_clip_model.safetensors") for folder in (base, imported)
    )
    changed = {name for name, value in theirs.items() if not ours[name].equal(value)}
    assert changed == {"visual.positional_embedding"} and len(ours[changed.pop()]) == 10
    assert (
        json.loads((base / "origin.json").read_text()) == origin and licence_of_model(base) == "MIT"
    )


def test_the_terminal_lists_shows_imports_and_converts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["models", *map(str, arguments)]) == code
        output, errors = capsys.readouterr()
        return str(errors if code else output)

    listed = run("list")
    assert all(row.name in listed and row.licence in listed for row in FAMILY)
    assert "quickgelu" in run("show", "pai-clip-commercial-base-en")
    assert "no such model; did you mean 'fashion-clip'?" in run("show", "fashion-clop", code=1)
    write_open_clip(tmp_path / "a", clip_architecture(True))
    (tmp_path / "a/README.md").write_text(
        "---\ntags:\n- clip\nlicense: cc-by-4.0\n---\n# A model\nlicense: no\n"
    )
    told = run("import", tmp_path / "a", "--as", "mine")
    assert "cc-by-4.0" in told and typed("retrain --set model.pretrained=mine") in told
    assert f"mine as easynlp: {tmp_path / 'b'}" in run(
        "convert", "mine", "--to", "easynlp", "--out", tmp_path / "b"
    )
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "config.json",
        "pytorch_model.bin",
        "vocab.txt",
    }
    assert "no such file or folder" in run("import", tmp_path / "nothing", "--as", "x", code=1)
    assert "nothing: no such model" in run(
        "convert", tmp_path / "nothing", "--to", "easynlp", "--out", tmp_path / "c", code=1
    )
