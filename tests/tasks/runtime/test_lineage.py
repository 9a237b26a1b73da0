import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.config.load import RunConfig
from tasks.runtime import lineage
from tasks.runtime.lineage import (
    DOORS,
    MAKES_RESULTS,
    SHOWING,
    code_version,
    git_commit,
    stage_key,
    stage_sources,
    trace_lineage,
)
from tasks.runtime.records import DataVersion, Run

CONFIG = RunConfig(name="any")
DATA = DataVersion(folder=Path("data"), version="v1", is_tracked=True, file_md5={})
TRAINING, EVALUATION = "tasks.training.train", "tasks.evaluation.evaluate"


def fingerprint(config: RunConfig, data: DataVersion) -> str:
    return trace_lineage(config, data).fingerprint


def changed(**values: object) -> RunConfig:
    return RunConfig.model_validate(CONFIG.model_dump() | values)


def test_the_fingerprint_changes_with_data_config_and_base_weights(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    with_weights = changed(model={"pretrained": str(weights)})
    marks = [
        fingerprint(CONFIG, DATA),
        fingerprint(CONFIG, DATA.model_copy(update={"version": "v2"})),
        fingerprint(changed(seed=1), DATA),
        fingerprint(with_weights, DATA),
    ]
    weights.write_bytes(b"2")
    marks.append(fingerprint(with_weights, DATA))
    assert len(set(marks)) == len(marks)


def test_the_fingerprint_changes_with_what_an_edited_table_of_concepts_holds(
    tmp_path: Path,
) -> None:
    table = tmp_path / "concepts.parquet"
    edited, marks = changed(finetune={"concepts": str(table)}), set()
    for content in (b"1", b"2"):
        table.write_bytes(content)
        marks.add(fingerprint(edited, DATA))
    assert len(marks) == 2


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the code in which bytes may change."""
    copy = tmp_path_factory.mktemp("tree")
    for package in ("model", "tasks"):
        shutil.copytree(
            lineage.ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (copy / "README.md").write_text("read me")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "ROOT", copy)
        yield copy
    code_version.cache_clear()


def names_of_code() -> dict[str, str]:
    """Return the fingerprint and the key of finetune, by the code as it is now."""
    code_version.cache_clear()
    traced = trace_lineage(CONFIG, DATA)
    run = Run(config=CONFIG, data=DATA, lineage=traced, folder=Path(), mlflow_run_id="")
    key = stage_key(run, TRAINING, ("model", "finetune"), ())
    return {"fingerprint": traced.fingerprint, "finetune": key}


@pytest.fixture(scope="module")
def before(tree: Path) -> dict[str, str]:
    return names_of_code()


@pytest.mark.parametrize(
    ("module", "renamed"),
    [
        ("model/training/losses.py", {"fingerprint", "finetune"}),
        ("model/pairs/tsv.py", {"fingerprint", "finetune"}),
        ("tasks/training/train.py", {"fingerprint", "finetune"}),
        ("tasks/training/fitting.py", {"fingerprint", "finetune"}),
        ("tasks/training/base_weights.py", {"fingerprint", "finetune"}),
        ("tasks/validation/accepted.py", {"fingerprint", "finetune"}),
        ("tasks/evaluation/evaluate.py", {"fingerprint"}),
        ("model/evaluation/bootstrap.py", {"fingerprint"}),
        ("tasks/promotion/gate.py", {"fingerprint"}),
        ("tasks/pages/text.py", set()),
        ("tasks/pages/gallery.py", set()),
        ("tasks/training/report.py", set()),
        ("tasks/registry/tracking.py", set()),
        ("tasks/runtime/stage.py", set()),
        ("tasks/data/dvc.py", set()),
        ("tasks/cluster/torchrun.py", set()),
        ("model/config/sections.py", set()),
        ("model/errors.py", set()),
        ("README.md", set()),
    ],
)
def test_a_byte_of_code_that_makes_results_is_new_and_trains_again_only_where_training_reads_it(
    tree: Path, before: dict[str, str], module: str, renamed: set[str]
) -> None:
    source = (tree / module).read_bytes()
    (tree / module).write_bytes(source + b"#")
    now = names_of_code()
    (tree / module).write_bytes(source)
    assert {name for name, value in now.items() if value != before[name]} == renamed


def test_every_part_of_tasks_is_classed_and_everything_that_is_named_is_there() -> None:
    tasks = lineage.ROOT / "tasks"
    parts = {path.stem for path in tasks.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert set(MAKES_RESULTS) == parts - {"__init__", "__pycache__"}
    making = [wing for wing, makes_results in MAKES_RESULTS.items() if makes_results]
    assert {path.stem for wing in making for path in (tasks / wing).glob("*.py")} >= SHOWING
    assert set(DOORS) <= set(stage_sources(*DOORS))
    assert {door.split(".")[1] for door in DOORS} == set(making)


def test_packages_whose_files_do_not_count_hold_a_docstring_alone() -> None:
    wings = {path.parent for path in stage_sources(*DOORS).values()}
    for wing in wings:
        body = ast.parse((wing / "__init__.py").read_text()).body
        assert [type(statement) for statement in body] == [ast.Expr], wing


def test_the_code_of_training_is_neither_that_of_the_gallery_nor_of_the_gate() -> None:
    read = set(stage_sources(TRAINING))
    assert {
        "model.training.losses",
        "model.training.loop",
        "tasks.validation.accepted",
        "tasks.training.base_weights",
        "tasks.training.train",
    } <= read
    of_tasks = {name for name in read if name.startswith("tasks.")}
    assert {name.split(".")[1] for name in of_tasks} == {"training", "validation"}
    assert "model.evaluation.bootstrap" in set(stage_sources(EVALUATION)) - read


def test_where_the_data_lie_and_how_the_run_is_called_do_not_change_the_fingerprint() -> None:
    moved = changed(name="other", workers=0, data={"path": "elsewhere"})
    assert fingerprint(moved, DATA) == fingerprint(CONFIG, DATA)


def test_outside_git_the_commit_is_unknown_and_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    assert git_commit() == ("unknown", True)
