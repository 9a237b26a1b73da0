from pathlib import Path

import pytest

from model.config.load import RunConfig
from tasks.runtime import lineage
from tasks.runtime.lineage import code_version, fingerprint, git_commit
from tasks.runtime.records import DataVersion

CONFIG = RunConfig(name="any")
DATA = DataVersion(folder=Path("data"), version="v1", is_tracked=True, file_md5={})


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


def test_the_fingerprint_changes_with_the_code_but_not_with_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "loss.py").write_text("1")
    code_version.cache_clear()
    first = fingerprint(CONFIG, DATA)
    (tmp_path / "README.md").write_text("new")
    code_version.cache_clear()
    assert fingerprint(CONFIG, DATA) == first
    (tmp_path / "model" / "loss.py").write_text("2")
    code_version.cache_clear()
    assert fingerprint(CONFIG, DATA) != first
    code_version.cache_clear()


def test_where_the_data_lie_and_how_the_run_is_called_do_not_change_the_fingerprint() -> None:
    moved = changed(name="other", workers=0, data={"path": "elsewhere"})
    assert fingerprint(moved, DATA) == fingerprint(CONFIG, DATA)


def test_outside_git_the_commit_is_unknown_and_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    assert git_commit() == ("unknown", True)
