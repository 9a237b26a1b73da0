import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """The tables that Prefect UI would show, by key; no server is needed."""
    tables: dict[str, list[dict[str, Any]]] = {}

    def table(rows: list[dict[str, Any]], key: str, description: str) -> None:
        tables[key] = rows

    for module in ("tasks.validation.validate", "tasks.validation.drift"):
        monkeypatch.setattr(f"{module}.publish_table", table)
    monkeypatch.setattr("tasks.validation.page.publish_link", lambda *_, **__: None)
    return tables


@pytest.fixture
def whole(miniature: Path, tmp_path: Path, state: Path, shown: object) -> Path:
    """A copy of the miniature that the test may spoil."""
    return Path(shutil.copytree(miniature, tmp_path / "pairs"))


@pytest.fixture
def pairs(whole: Path, without_pages: None) -> Path:
    """Train and test alone, and no Data Docs, because they are most of the cost."""
    shutil.rmtree(whole / "pretrain")
    (whole / "finetune" / "valid.tsv").unlink()
    return whole
