"""A project of its own for a stack: our code, a miniature under DVC, a config that trains for
seconds."""

import shutil
from pathlib import Path

from tasks.runtime.environment import ROOT
from tests.projects import make_project

CODE = (
    "flows",
    "tasks",
    "model",
    "configs",
    "scripts",
    "prefect.yaml",
    "requirements.lock",
    "pyproject.toml",
)

CONFIG = """
name: sample
workers: 0
model: {name: configs/models/tiny-vit.json}
pretrain: &stage
  {epochs: 12, batch_size: 16, optimizer: muon, lr: 1.0e-3, warmup_steps: 1, checkpoint_share: 1.0}
finetune: *stage
evaluate: {gallery_queries: 2}
"""


def make_shop(folder: Path, pairs: Path) -> Path:
    """Return a checkout in which `make up` and `ingest` work as in ours, on the miniature."""
    project = make_project(folder, pairs)
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, project / name)
    (project / "configs" / "sample.yaml").write_text(CONFIG, encoding="utf-8")
    return project
