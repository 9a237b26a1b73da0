"""From which code, data and weights a model came: what its tags say and what the fingerprint is made of."""

import ast
import hashlib
import json
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from prefect.runtime import flow_run

from model.config.load import RunConfig
from model.config.sections import ModelConfig
from model.storage.files import file_digest
from model.storage.sealed import MANIFEST
from model.towers.imported import find_imported, recorded_weights_sha256
from tasks.runtime.environment import ROOT, models_folder, report_folder
from tasks.runtime.records import DataVersion, Run

CODE_FOLDERS = ("model", "tasks")
# What shows, logs or stores results without changing them, and what is named by its values instead.
NO_RESULTS = {
    "model.errors",
    "model.config.sections",
    "tasks.pages.answers",
    "tasks.training.curves",
    "tasks.pages.drawing",
    "tasks.runtime.environment",
    "tasks.pages.fonts",
    "tasks.pages.gallery",
    "tasks.registry.metric_log",
    "tasks.registry.zoo",
    "tasks.runtime.progress",
    "tasks.runtime.records",
    "tasks.pages.text",
    "tasks.runtime.signals",
    "tasks.runtime.stage",
    "tasks.registry.tracking",
    "tasks.training.report",
}


@cache
def code_version() -> str:
    """Return the SHA-256 (hex) of the sources that results depend on; a changed README is no new code."""
    digest = hashlib.sha256()
    for folder in CODE_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}:{file_digest(path)}\n".encode())
    return digest.hexdigest()


@cache
def stage_code_version(module: str) -> str:
    """Return the SHA-256 (hex) of the sources that a stage's results depend on."""
    content = "".join(
        f"{name}:{file_digest(path)}\n" for name, path in sorted(stage_sources(module).items())
    )
    return hashlib.sha256(content.encode()).hexdigest()


def stage_sources(module: str) -> dict[str, Path]:
    """Return a module and every one of ours that it imports, however deep, by name with its file.

    Imports inside functions count; modules that change no result do not. Reading 60 files takes 0.2
    s.
    """
    sources: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if path is not None and name not in sources and name not in NO_RESULTS:
            sources[name] = path
            waiting += _imported(path)
    return sources


def _source(module: str) -> Path | None:
    """Return the file of a module of ours, None for a name in one and for other people's."""
    package, *rest = module.split(".")
    if package not in CODE_FOLDERS:
        return None
    path = ROOT.joinpath(package, *rest)
    return next(
        (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None
    )


def _imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def stage_key(run: Run, module: str, sections: Sequence[str], upstream: Sequence[str]) -> str:
    """Return the SHA-256 (hex) of what a stage's result depends on.

    That is the data version and its limits, the code of the stage, its sections of the config, the
    base weights, and the results that it starts from.
    """
    config = run.config.model_dump(mode="json", exclude={"data": {"path"}})
    read = {
        name: config[name]
        for name in sorted({"data", "seed", "device", "precision", "compile", *sections})
    }
    base = (architecture_id(run.config.model), base_weights_id(run.config), concepts_id(run.config))
    parts = (
        run.data.version,
        stage_code_version(module),
        json.dumps(read, sort_keys=True),
        *base,
        *upstream,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
    paths = [
        Path(stage.concepts)
        for stage in (config.pretrain, config.finetune)
        if stage.concepts is not None
    ]
    return " ".join(file_digest(path) for path in paths if path.is_file())


def fingerprint(config: RunConfig, data: DataVersion) -> str:
    """Return the SHA-256 (hex) of data version, code version, config, base weights and edited tables of concepts."""
    base = (architecture_id(config.model), base_weights_id(config))
    parts = (data.version, code_version(), config.digest(), *base, concepts_id(config))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def git_commit() -> tuple[str, bool]:
    """Return the commit of this checkout and whether files differ from it; ('unknown', True) outside git."""
    head = _git("rev-parse", "HEAD")
    return (
        (head, bool(_git("status", "--porcelain", "--untracked-files=no")))
        if head
        else ("unknown", True)
    )


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def lineage_tags(config: RunConfig, data: DataVersion) -> dict[str, str]:
    """Return the tags by which a person gets from a run or version back to its data, code and flow run."""
    commit, is_dirty = git_commit()
    return {
        "commerce_clip.config": config.name,
        "commerce_clip.config_sha256": config.digest(),
        "commerce_clip.data_version": data.version,
        "commerce_clip.data_docs": (report_folder(data.version) / "docs" / "index.html").as_uri(),
        "commerce_clip.data_is_tracked": str(data.is_tracked).lower(),
        "commerce_clip.code_version": code_version(),
        "commerce_clip.git_commit": commit,
        "commerce_clip.git_is_dirty": str(is_dirty).lower(),
        "commerce_clip.base_weights": base_weights_id(config),
        "commerce_clip.prefect_flow_run": str(flow_run.id or "none"),
    }
