"""Every knob of a run: one YAML file, validated once, frozen afterwards.

A key that does not exist is refused with the nearest one that does. Overrides (``--set finetune.epochs=2`` or the
environment variable ``COMMERCE_CLIP__FINETUNE__EPOCHS=2``) pass through the same validation as the file; the command
line wins over the environment, the environment over the file.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import ConfigError, FaultReason, nearest

ENVIRONMENT_PREFIX = "COMMERCE_CLIP__"
MAX_CONFIG_BYTES = 1_000_000
MAX_YAML_DEPTH = 20
MAX_ALIASES = 20  # of 20 nested aliases at most 1,500 values come; of 90, a thousand million
MAX_SEED = 2**63 - 1

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]
ColumnName = Annotated[str, Field(pattern=r"^[\w .-]{1,64}$")]
ScriptName = Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]


class Section(BaseModel):
    """A frozen part of the config that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Where the pairs lie and what they must satisfy before anything is trained on them."""

    path: str = Field(
        "data",
        description="Folder with pretrain/*.tsv and finetune/{train,valid,test}.tsv, or flat with train.tsv and "
        "test.tsv. 'data' is the DVC-tracked folder of this repository.",
    )
    valid_share: Share = Field(
        0.1, description="Share of the train pairs carved out as valid where the folder has no valid.tsv, 0 to 1."
    )
    min_rows: int = Field(2, ge=1, description="Fewest accepted pairs a split may have, rows.")
    max_fault_share: Share = Field(
        0.01,
        description="Largest share of faulty lines a split may have, and of captions whose length is out of bounds, "
        "0 to 1.",
    )
    max_fault_share_by_reason: dict[FaultReason, Share] = Field(
        default_factory=dict,
        description="Largest share of lines with one kind of fault, by its name (bad_base64: 0.001), beside the limit "
        "on all faults, 0 to 1.",
    )
    max_duplicate_share: Share = Field(
        0.3, description="Largest share of pairs in a split that repeat an earlier pair's words and image, 0 to 1."
    )
    on_leak: Literal["refuse", "drop"] = Field(
        "refuse",
        description="What happens when pairs of another split share with test the image, one that looks the same, the "
        "words of the caption (whatever their case and punctuation) or the product id: refuse stops the run, drop "
        "leaves those pairs out of training.",
    )
    min_caption_words: int = Field(
        1, ge=0, description="Fewest words of a caption; in scripts without spaces, characters."
    )
    max_caption_words: int = Field(
        200, ge=1, description="Most words of a caption; a model reads about 60, and about 50 characters of Chinese."
    )
    max_caption_chars: int = Field(1000, ge=1, description="Longest caption, characters.")
    scripts: tuple[ScriptName, ...] = Field(
        (),
        description="Scripts that captions are written in (latin, cjk, cyrillic, …; none for digits alone); empty for "
        "any.",
    )
    min_script_share: Share = Field(
        0.9, description="Smallest share of captions whose letters are mostly of the wanted scripts, 0 to 1."
    )
    min_image_side: int = Field(16, ge=2, description="Shortest side an image may have, pixels.")
    max_pixels: int = Field(25_000_000, ge=4, description="Largest image that is decoded, pixels (width times height).")
    max_line_bytes: int = Field(16_000_000, ge=1000, description="Longest line of a TSV that is read, bytes.")
    require_side_table: bool = Field(
        False, description="Whether every split needs its <split>.products.csv (id, title, category, …)."
    )
    side_table_columns: tuple[ColumnName, ...] = Field(
        (), description="Columns that every side table must have beside id, with a value in every row."
    )
    drift_warn: float = Field(
        0.1,
        ge=0,
        description="Drift of a column against the champion's data that is warned of: population stability index "
        "above what chance alone gives. 0.1 is usually called some, 0.25 a lot.",
    )
    max_drift: float | None = Field(
        None, ge=0, description="Drift that stops the run, measured as drift_warn is; null never stops it."
    )


class ModelConfig(Section):
    """Which towers, and the weights that they start from."""

    name: str = Field(
        "ViT-B-32", description="An open_clip model name, or the path of an open_clip JSON config (configs/models/…)."
    )
    pretrained: str | None = Field(
        None,
        description="Base weights: an open_clip tag (laion2b_s34b_b79k), a local .safetensors, .pt or .bin file, "
        "or null for random weights.",
    )


class StageConfig(Section):
    """One training stage (pretrain or finetune)."""

    epochs: int = Field(1, ge=0, description="Passes over the stage's pairs; 0 leaves the stage out.")
    batch_size: int = Field(256, ge=2, description="Pairs a step.")
    lr: float = Field(5e-4, gt=0, description="Peak learning rate.")
    min_lr: float = Field(0.0, ge=0, description="Learning rate that the cosine falls to after the last step.")
    warmup_steps: int = Field(20, ge=0, description="Steps of linear warm-up from 0 to lr.")
    weight_decay: float = Field(0.2, ge=0, description="AdamW decay of weights; norms, biases and scales have none.")
    beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's second moment decay.")
    grad_clip: float = Field(1.0, gt=0, description="Largest global gradient norm.")
    crop_scale: Share = Field(
        0.9, description="Smallest share of the image's area that a random training crop keeps; 1 crops the centre."
    )
    flip: bool = Field(False, description="Whether training images are mirrored at random.")
    concept_weight: float = Field(
        0.0, ge=0, description="Weight of the concept-matching loss beside InfoNCE; 0 leaves it out."
    )
    queue_size: int = Field(65_536, ge=1, description="Rows of the feature queue that prototypes are means over.")
    min_concept_count: int = Field(5, ge=2, description="Captions that must name a concept before it is one.")


class EvaluateConfig(Section):
    """How a model is judged."""

    batch_size: int = Field(256, ge=1, description="Captions or images encoded at a time.")
    block_rows: int = Field(1024, ge=1, description="Queries ranked at a time; memory is block_rows times candidates.")
    gallery_queries: int = Field(12, ge=1, description="Captions shown in the gallery.")
    bootstrap_draws: int = Field(
        2000, ge=100, description="Bootstrap draws behind the interval of a mean recall difference."
    )


class ExportConfig(Section):
    """Which products get embeddings."""

    files: tuple[str, ...] = Field(
        ("test.tsv",), min_length=1, description="TSV files to embed, relative to the folder of the finetune splits."
    )
    batch_size: int = Field(256, ge=1, description="Rows encoded at a time.")


class RunConfig(Section):
    """Everything that a run depends on besides its data and its code."""

    name: Name = Field(description="Name of the config in runs, deployments and reports.")
    registered_model: Name = Field("commerce-clip", description="Name in the MLflow model registry.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of weights, order and augmentation.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where the towers run.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 runs the towers under autocast.")
    workers: int = Field(1, ge=0, description="Threads that decode images ahead; 0 decodes between the steps.")
    profile_processes: int | None = Field(
        None, ge=1, description="Processes that profile a TSV; null takes one a core, and one for a small file."
    )
    decoded_cache: bool = Field(
        False,
        description="Whether decoded images are kept on disk, 150 KB a pair at 224 pixels, for evaluation and for "
        "stages whose crop_scale is 1. Results are the same bits.",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="Pairs and their limits.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Towers and base weights.")
    pretrain: StageConfig = Field(default_factory=StageConfig, description="Continued pretraining on data/pretrain.")
    finetune: StageConfig = Field(default_factory=StageConfig, description="Fine-tuning on the train split.")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="Rank@K and gallery.")
    export: ExportConfig = Field(default_factory=ExportConfig, description="Embedding export.")

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.pretrain.epochs + self.finetune.epochs == 0:
            raise ValueError(
                "pretrain.epochs and finetune.epochs are both 0, so nothing would be trained; set one of them"
            )
        return self

    def digest(self) -> str:
        """Return the SHA-256 (hex) of everything that changes results; where the data lie and the name do not."""
        same_results = dict.fromkeys(("name", "workers", "profile_processes", "decoded_cache"), True)
        values = self.model_dump(mode="json", exclude={**same_results, "data": {"path"}})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_config(
    path: Path | str, overrides: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> RunConfig:
    """Read a YAML config, apply environment and ``a.b=c`` overrides, validate.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a key is unknown, or a value is impossible.
    """
    values = _read_yaml(Path(path))
    for key, text in sorted((environment or {}).items()):
        if key.startswith(ENVIRONMENT_PREFIX):
            _assign(values, key.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"), text, origin=key)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected section.key=value, for example finetune.epochs=2")
        _assign(values, key.strip().split("."), text, origin=f"--set {override}")
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = nearest(str(path), known) or (f"; known: {', '.join(known)}" if known else "")
        raise ConfigError(f"{path}: no such config file{hint}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: a config is at most {MAX_CONFIG_BYTES:,} bytes; is this the right file?")
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML ({error}); mend the file") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of config keys, found {type(values).__name__}")
    return values


def _parse_yaml(text: str) -> Any:
    """Parse YAML into plain values.

    Raises:
        ValueError: it is no YAML, a value does not fit its tag, or it nests or repeats itself without measure.
    """
    try:
        _check_measure(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, AttributeError, LookupError) as error:  # PyYAML's own on a tag such as !!bool maybe
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _check_measure(text: str) -> None:
    """Refuse YAML that would grow in memory or in the parser's time, before anything is made of it."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"nested more than {MAX_YAML_DEPTH} levels deep")
        if aliases > MAX_ALIASES:
            raise ValueError(f"more than {MAX_ALIASES} aliases")


def _assign(values: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    """Set the nested key, parsing the text as YAML so that numbers, booleans and null mean themselves."""
    for key in keys[:-1]:
        section = values.get(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{origin}: '{key}' is a value, not a section")
        values[key] = dict(section)  # a copy, because a section that the file names by an alias stands twice
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
        if detail["type"] == "extra_forbidden":
            problems.append(f"unknown key '{where}'{nearest(where.split('.')[-1], _known_keys(detail['loc'][:-1]))}")
        elif detail["type"] == "missing":
            problems.append(f"{where} is missing; the config must set it")
        elif where:
            problems.append(f"{where} is {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}")
        else:
            problems.append(detail["msg"].removeprefix("Value error, "))
    return "; ".join(problems)


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        section = annotation
    return list(section.model_fields)
