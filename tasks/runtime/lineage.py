"""Where a model comes from: the code, data and weights behind its tags, fingerprint and stage keys.

Code counts by wings. A changed page, table or registry is "nothing new"; a changed loss is, and a
changed measure of the evaluation gives a new fingerprint, but trains nothing again.
"""

import ast
import hashlib
import json
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from model.config.load import RunConfig
from model.config.sections import ModelConfig
from model.storage.files import file_digest
from model.storage.sealed import MANIFEST
from model.towers.imported import find_imported, recorded_weights_sha256
from tasks.runtime.environment import ROOT, data_page, models_folder, page_address
from tasks.runtime.log import flow_run_id
from tasks.runtime.records import DataVersion, Lineage, Run

# The doors of the stages: the code behind them is the code of a run.
DOORS = (
    "tasks.validation.validate",
    "tasks.training.train",
    "tasks.evaluation.evaluate",
    "tasks.embeddings.export",
    "tasks.promotion.promote",
)
# Whether the code of a part of tasks/ makes results, or runs, carries, keeps and shows them.
MAKES_RESULTS = {
    "cluster": False,  # any number of processes trains the same weights
    "data": False,  # a data version is named by its hash
    "embeddings": True,
    "evaluation": True,
    "ingest": False,
    "pages": False,
    "promotion": True,
    "registry": False,
    "run": False,
    "runtime": False,
    "training": True,
    "validation": True,
}
# Files of the wings that make results which only show them.
SHOWING = {"charts", "curves", "model_card", "report", "tables"}
# Parts of model/ that change no result: messages, and a config whose values are hashed.
HASHED_OTHERWISE = {"errors", "config"}


@cache
def code_version(*doors: str) -> str:
    """Return the SHA-256 (hex) of the sources that the results of some doors depend on."""
    content = "".join(
        f"{name}:{file_digest(path)}\n" for name, path in sorted(stage_sources(*doors).items())
    )
    return hashlib.sha256(content.encode()).hexdigest()


def stage_sources(*doors: str) -> dict[str, Path]:
    """Return the modules that make the results of some doors, by name with their files.

    These are the doors and what they import from there on, also inside functions. Imports of a
    module that makes no result are not followed. Reading 60 files takes 0.2 s.
    """
    sources, waiting = dict[str, Path](), list(doors)
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in sources or not _makes_results(name) or not path.is_file():
            continue
        sources[name] = path

        # Every name that the file imports, and those in it, which may be modules.
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    return sources


def _makes_results(module: str) -> bool:
    """Return whether a module's code changes results; False for a package, whose file is empty.

    Raises:
        KeyError: the module's wing is not classed.
    """
    package, *inside = module.split(".")
    if inside and package == "tasks":
        return MAKES_RESULTS[inside[0]] and inside[-1] not in SHOWING
    return bool(inside) and package == "model" and inside[0] not in HASHED_OTHERWISE


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
    made_by = (run.data.version, code_version(module), json.dumps(read, sort_keys=True))
    return _digest([*made_by, *run.lineage.start, *upstream])


def trace_lineage(config: RunConfig, data: DataVersion) -> Lineage:
    """Hash what a run is made of, once for all who ask: weights of 1 GB take about a second."""
    start = (architecture_id(config.model), base_weights_id(config), concepts_id(config))
    fingerprint = _digest([data.version, code_version(*DOORS), config.digest(), *start])
    return Lineage(fingerprint=fingerprint, start=start)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def base_weights_id(config: RunConfig) -> str:
    """Return the name of the start weights unloaded: a file's SHA-256, a tag, or the seed."""
    model = config.model
    if model.image_tower is None or model.text_tower is None:
        return _weights_id(model.pretrained, config.seed)
    towers = (model.image_tower, model.text_tower)
    return "+".join(_weights_id(tower.pretrained, config.seed) for tower in towers)


def _weights_id(pretrained: str | None, seed: int) -> str:
    if pretrained is None:
        return f"random:{seed}"
    path = Path(pretrained)
    # A tower's folder as published: whatever lies in it.
    if path.is_dir() and not (path / MANIFEST).is_file():
        files = (file for file in sorted(path.iterdir()) if file.is_file())
        return f"folder:{_digest([f'{file.name} {file_digest(file)}' for file in files])}"

    imported = find_imported(pretrained, models_folder())
    if imported is not None:
        return f"sha256:{recorded_weights_sha256(imported)}"
    return f"sha256:{file_digest(path)}" if path.is_file() else f"tag:{pretrained}"


def architecture_id(model: ModelConfig) -> str:
    """Return the model's name with the SHA-256 of its JSON and vocabulary, or of its manifest."""
    if model.image_tower is not None:
        stated = model.model_dump_json(include={"image_tower", "text_tower", "embed_dim"})
        names = [tower.name or "" for tower in (model.image_tower, model.text_tower) if tower]
        files = [path for name in names for path in (Path(name), Path(name) / "config.json")]
        return _digest([stated, *(file_digest(path) for path in files if path.is_file())])
    imported = find_imported(model.pretrained, models_folder())
    if imported is not None:
        return f"imported:{file_digest(imported / MANIFEST)}"
    paths = [path for path in (Path(model.name), Path(model.vocabulary or "")) if path.is_file()]
    return ":".join([model.name, *(file_digest(path) for path in paths)])


def concepts_id(config: RunConfig) -> str:
    """Return the SHA-256 of each stage's table of concepts where the config names one."""
    tables = [Path(stage.concepts or "") for stage in (config.pretrain, config.finetune)]
    return " ".join(file_digest(table) for table in tables if table.is_file())


def git_commit() -> tuple[str, bool]:
    """Return this checkout's commit and whether files differ; ('unknown', True) outside git."""
    head = git("rev-parse", "HEAD", cwd=ROOT)
    if head is None:
        return "unknown", True
    return head.strip(), bool(git("status", "--porcelain", "--untracked-files=no", cwd=ROOT))


def git(*arguments: str, cwd: Path) -> str | None:
    """Return the output of a git command, None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def lineage_tags(config: RunConfig, data: DataVersion, lineage: Lineage) -> dict[str, str]:
    """Return the tags that lead from a run or version back to its data, code and flow run."""
    commit, is_dirty = git_commit()

    return {
        "commerce_clip.config": config.name,
        "commerce_clip.config_sha256": config.digest(),
        "commerce_clip.data_version": data.version,
        "commerce_clip.data_page": page_address(data_page(data.version)),
        "commerce_clip.data_is_tracked": str(data.is_tracked).lower(),
        "commerce_clip.code_version": code_version(*DOORS),
        "commerce_clip.git_commit": commit,
        "commerce_clip.git_is_dirty": str(is_dirty).lower(),
        "commerce_clip.base_weights": lineage.base_weights,
        "commerce_clip.prefect_flow_run": str(flow_run_id() or "none"),
    }
