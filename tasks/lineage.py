"""From which code, data and weights a model came: what its tags say and what the fingerprint is made of."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from model.config import RunConfig
from model.files import MANIFEST, file_digest
from model.sections import ModelConfig
from model.shelf import find_imported, recorded_weights_sha256
from tasks.environment import ROOT
from tasks.models import models_folder
from tasks.records import DataVersion

CODE_FOLDERS = ("model", "tasks")


@cache
def code_version() -> str:
    """Return the SHA-256 (hex) of the sources that results depend on; a changed README is no new code."""
    digest = hashlib.sha256()
    for folder in CODE_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}:{file_digest(path)}\n".encode())
    return digest.hexdigest()


def base_weights_id(config: RunConfig) -> str:
    """Return what names the start weights before they are loaded: a file's SHA-256, a tag, or the seed."""
    model = config.model
    if model.pretrained is None:
        return f"random:{config.seed}"
    imported = find_imported(model.pretrained, models_folder())
    if imported is not None:
        return f"sha256:{recorded_weights_sha256(imported)}"
    path = Path(model.pretrained)
    return f"sha256:{file_digest(path)}" if path.is_file() else f"tag:{model.pretrained}"


def architecture_id(model: ModelConfig) -> str:
    """Return the model's name and the SHA-256 of its JSON and vocabulary, if any; an imported one's manifest."""
    imported = find_imported(model.pretrained, models_folder())
    if imported is not None:
        return f"imported:{file_digest(imported / MANIFEST)}"
    paths = [path for path in (Path(model.name), Path(model.vocabulary or "")) if path.is_file()]
    return ":".join([model.name, *(file_digest(path) for path in paths)])


def concepts_id(config: RunConfig) -> str:
    """Return the SHA-256 of each stage's table of concepts where the config names one."""
    paths = [Path(stage.concepts) for stage in (config.pretrain, config.finetune) if stage.concepts is not None]
    return " ".join(file_digest(path) for path in paths if path.is_file())


def fingerprint(config: RunConfig, data: DataVersion) -> str:
    """Return the SHA-256 (hex) of data version, code version, config, base weights and edited tables of concepts."""
    base = (architecture_id(config.model), base_weights_id(config))
    parts = (data.version, code_version(), config.digest(), *base, concepts_id(config))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def git_commit() -> tuple[str, bool]:
    """Return the commit of this checkout and whether files differ from it; ('unknown', True) outside git."""
    head = _git("rev-parse", "HEAD")
    return (head, bool(_git("status", "--porcelain", "--untracked-files=no"))) if head else ("unknown", True)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
