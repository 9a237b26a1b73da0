"""The first of several processes calls the others to each stage, and they end with it."""

import shutil
from pathlib import Path

from model.config.load import RunConfig
from model.pairs.repeats import REPEATS_SCHEMA
from model.storage.tables import write_table
from model.towers.create import create_towers
from model.towers.folder import load_towers, save_towers
from model.training.distributed import is_main, rank_of_world
from model.training.loop import train
from model.training.stage import Callbacks, Stage, StepRecord
from tasks.cluster.torchrun import Work, call_helpers, lead_or_help
from tasks.runtime.records import DataVersion, Run, Validation
from tasks.validation.inputs import split_input
from tests.ranks import ended, start_ranks
from tests.runs import lineage
from tests.tiny import write_data, write_model

# Each process imports Prefect, which a busy machine takes long for.
IMPORT_LIMIT_S = 200


def lead_two_stages(work: Work) -> None:
    """Run a flow of two trainings, or help it; leave a file that says it ended well."""

    def flow() -> None:
        assert is_main(), "helpers run no flow"
        for name in ("first", "second"):
            train_with_helpers(
                work.model_copy(
                    update={"run": work.run.model_copy(update={"folder": folder / name})}
                )
            )

    folder = work.run.folder
    lead_or_help(flow)
    (folder / f"ended-{rank_of_world()[0]}").touch()


def train_with_helpers(work: Work) -> None:
    run, steps = work.run, list[StepRecord]()
    towers = load_towers(work.start, "cpu")
    pairs = split_input(run, work.validation, work.name, towers, crops_centre=False)
    call_helpers(work)
    stage = Stage(
        run.config.finetune,
        pairs,
        lambda towers: {"mean_recall": 0.5},
        run.folder / work.name,
        0,
        0,
    )
    state = train(towers, stage, Callbacks(on_step=steps.append))
    assert state.step == len(steps) == 4 and (run.folder / work.name / state.best_folder).is_dir()


def fail_at_once(folder: Path) -> None:
    def flow() -> None:
        raise SystemExit(7)

    try:
        lead_or_help(flow)
    except Exception as error:
        (folder / type(error).__name__).write_text(str(error))
        raise SystemExit(1) from None


def test_helpers_train_every_stage_and_end_with_the_first_process(tmp_path: Path) -> None:
    write_data(tmp_path)
    shutil.copy(tmp_path / "valid.tsv", tmp_path / "test.tsv")
    write_table(REPEATS_SCHEMA.empty_table(), tmp_path / "train.leaks.parquet")
    model = write_model(tmp_path)
    save_towers(create_towers(model, "cpu"), tmp_path / "start")
    stage = {"epochs": 1, "batch_size": 16}
    config = RunConfig.model_validate(
        {
            "name": "tiny",
            "model": model,
            "finetune": stage,
            "device": "cpu",
            "workers": 0,
            "decoded_cache": False,
        }
    )
    data = DataVersion(folder=tmp_path, version="d" * 32, is_tracked=False, file_md5={})
    run = Run(config=config, data=data, lineage=lineage(), folder=tmp_path, mlflow_run_id="")
    validation = Validation(profiles=tmp_path, docs=tmp_path, counts=[], expectations=5)
    work = Work(run=run, validation=validation, name="finetune", start=tmp_path / "start")
    assert ended(start_ranks(2, lead_two_stages, work), IMPORT_LIMIT_S) == [0, 0]
    assert {"ended-0", "ended-1"} <= {path.name for path in tmp_path.iterdir()}


def test_helpers_of_a_flow_that_fails_end_with_a_sentence(tmp_path: Path) -> None:
    assert ended(start_ranks(2, fail_at_once, tmp_path), IMPORT_LIMIT_S) == [7, 1]
    assert (
        "process 1 of 2 lost another one, whose own message says why"
        in (tmp_path / "PeerLost").read_text()
    )
