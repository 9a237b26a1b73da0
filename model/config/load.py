"""Every knob of a run: one YAML file, validated once, frozen afterwards.

A key that does not exist is refused with the nearest one that does. Overrides (``--set
finetune.epochs=2`` or the environment variable ``COMMERCE_CLIP__FINETUNE__EPOCHS=2``) pass through
the same validation as the file; the command line wins over the environment, the environment over
the file.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from model.config.base import Name, Section
from model.config.gate import GateConfig
from model.config.leaks import LeakPolicies
from model.config.sections import (
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    ModelConfig,
    StageConfig,
)
from model.errors import ConfigError, nearest

ENVIRONMENT_PREFIX = "COMMERCE_CLIP__"
MAX_CONFIG_BYTES = 1_000_000
MAX_YAML_DEPTH = 20
MAX_ALIASES = 20  # of 20 nested aliases at most 1,500 values come; of 90, a thousand million

# Keys of the stages that were tried and removed: why, and what holds without them.
REMOVED = {
    "word_drop": "it measured nothing",
    "term_warmup": "no figure spoke for it",
    "distill_form": "similarity was never measured, and embedding is the form that is left",
    "frozen_epochs": "it was never measured, and freeze holds for the whole stage",
}


class ServeConfig(Section):
    """How a registered version computes embeddings for others."""

    int8_text: bool = Field(
        False,
        description="Whether the text tower is served with 8-bit weights, about three times as "
        "fast: on only where mean recall on test falls by 0.3 points at most.",
    )


class RunConfig(Section):
    """Everything that a run depends on besides its data and its code."""

    name: Name = Field(description="Name of the config in runs, deployments and reports.")
    registered_model: Name = Field(
        "commerce-clip", description="Name in the MLflow model registry."
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Seed of weights, order and augmentation.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where the towers run."
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        "fp32",
        description="bf16 runs the towers under autocast; auto does where the device multiplies "
        "bf16 (CUDA with bf16, a CPU with AMX or AVX-512-bf16), else it is fp32.",
    )
    compile: bool = Field(
        False,
        description="Whether training runs the towers as code that torch.compile makes on the "
        "first step, in a minute or two; where that fails, the run goes on without, with a "
        "warning.",
    )
    workers: int = Field(
        1, ge=0, description="Threads that decode images ahead; 0 decodes between the steps."
    )
    profile_processes: int | None = Field(
        None,
        ge=1,
        description="Processes that profile a TSV; null takes one a core, and one for a small "
        "file.",
    )
    decoded_cache: bool = Field(
        False,
        description="Whether decoded images are kept on disk, 150 KB a pair at 224 pixels, for "
        "evaluation and for stages whose crop_scale is 1. Results are the same bits.",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="Pairs and their limits.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Towers and base weights.")
    pretrain: StageConfig = Field(
        default_factory=StageConfig, description="Continued pretraining on data/pretrain."
    )
    finetune: StageConfig = Field(
        default_factory=StageConfig, description="Fine-tuning on the train split."
    )
    evaluate: EvaluateConfig = Field(
        default_factory=EvaluateConfig, description="Rank@K and gallery."
    )
    serve: ServeConfig = Field(
        default_factory=ServeConfig, description="How a registered version is served."
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="What promotes a challenger.")
    export: ExportConfig = Field(default_factory=ExportConfig, description="Embedding export.")

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.pretrain.epochs + self.finetune.epochs == 0:
            raise ValueError(
                "pretrain.epochs and finetune.epochs are both 0, so nothing would be trained; "
                "set one of them"
            )
        return self

    def digest(self) -> str:
        """Hash what changes results (SHA-256, hex): not the name, nor where the data lie."""
        same_results: dict[str, Any] = {
            **dict.fromkeys(("name", "workers", "profile_processes", "decoded_cache"), True),
            "data": {"path"},
            "gate": {"approval", "approval_timeout_s"},
        }
        values = json.dumps(self.model_dump(mode="json", exclude=same_results), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()


def load_config(
    path: Path | str, overrides: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> RunConfig:
    """Read a YAML config, apply environment and ``a.b=c`` overrides, validate.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a key is unknown, or a value is
        impossible.
    """
    values = _read_yaml(Path(path))

    # The command line comes last, so it wins over the environment.
    for key, text in sorted((environment or {}).items()):
        if key.startswith(ENVIRONMENT_PREFIX):
            names = key.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            _assign(values, names, text, origin=key)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {override}: expected section.key=value, for example finetune.epochs=2"
            )
        _assign(values, key.strip().split("."), text, origin=f"--set {override}")

    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(map(str, path.parent.glob("*.yaml")))
        hint = nearest(str(path), known) or (f"; known: {', '.join(known)}" if known else "")
        raise ConfigError(f"{path}: no such config file{hint}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path}: a config is at most {MAX_CONFIG_BYTES:,} bytes; is this the right file?"
        )

    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML ({error}); repair the file") from None

    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a mapping of config keys, found {type(values).__name__}"
        )
    return values


def _parse_yaml(text: str) -> Any:
    """Parse YAML into plain values.

    Raises:
        ValueError: it is no YAML, a value does not fit its tag, or it nests or repeats itself
        without measure.
    """
    depth = aliases = 0
    try:
        # What would grow in memory or in the parser's time is refused before it is read.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > MAX_YAML_DEPTH:
                raise ValueError(f"nested more than {MAX_YAML_DEPTH} levels deep")
            if aliases > MAX_ALIASES:
                raise ValueError(f"more than {MAX_ALIASES} aliases")
        return yaml.safe_load(text)
    # PyYAML raises the latter two on a tag such as !!bool maybe.
    except (yaml.YAMLError, AttributeError, LookupError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _assign(values: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    """Set the nested key; the text is YAML, so numbers, booleans and null mean themselves."""
    for key in keys[:-1]:
        section = values.get(key, {})
        if key == "on_leak" and isinstance(section, str):
            section = dict.fromkeys(LeakPolicies.model_fields, section)
        if not isinstance(section, dict):
            raise ConfigError(f"{origin}: '{key}' is a value, not a section")
        # A copy, because a section that the file names by an alias stands twice.
        values[key] = dict(section)
        values = values[key]
    try:
        values[keys[-1]] = _parse_yaml(text)
    except ValueError:
        raise ConfigError(f"{origin}: '{text}' is not a YAML value; quote it") from None


def _explain(error: ValidationError) -> str:
    """Turn pydantic's report into one sentence."""
    problems = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])
        section, _, key = where.rpartition(".")

        if (
            detail["type"] == "extra_forbidden"
            and key in REMOVED
            and section in ("pretrain", "finetune")
        ):
            problems.append(
                f"{where} was removed ({REMOVED[key]}: docs/training.md); delete the key"
            )
        elif detail["type"] == "extra_forbidden":
            known = _known_keys(detail["loc"][:-1])
            problems.append(f"unknown key '{where}'{nearest(key, known)}")
        elif detail["type"] == "missing":
            problems.append(f"{where} is missing; the config must set it")
        elif where:
            message = detail["msg"][0].lower() + detail["msg"][1:]
            problems.append(f"{where} is {detail['input']!r}: {message}")
        else:
            problems.append(detail["msg"].removeprefix("Value error, "))
    return "; ".join(problems)


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        # A section that may be null is a union.
        kinds = [annotation, *get_args(annotation)]
        section = next(
            kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return list(section.model_fields)
