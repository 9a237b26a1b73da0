"""A config is what it says, or one sentence says why not."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from model.config.load import ENVIRONMENT_PREFIX, MAX_CONFIG_BYTES, RunConfig, load_config
from model.errors import ConfigError

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
WITHOUT_DIGEST = {"name", "workers", "profile_processes", "decoded_cache", "data.path"}
WITHOUT_DIGEST |= {"gate.approval", "gate.approval_timeout_s"}


def load(
    folder: Path,
    text: str = "name: x",
    overrides: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides, environment)


def refusal(
    folder: Path,
    text: str = "name: x",
    overrides: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, overrides, environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leaves(section: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, (*path, name))
        else:
            yield ".".join((*path, name)), value


# Values that cannot be told from the default's type.
ELSEWISE = {
    "profile_processes": 2,
    "data.max_fault_share_by_reason": {"bad_base64": 0.5},
    "data.scripts": ["latin"],
    "data.side_table_columns": ["colour"],
    "data.max_drift": 0.5,
    "model.embed_dim": 8,
    "model.image_tower": {"name": "tf_efficientnet_lite0"},
    "model.text_tower": {"pretrained": "bert"},
    "evaluate.slice_columns": ["fit"],
    "evaluate.label_columns": ["fit"],
    "evaluate.query_nouns": ["fit"],
    "evaluate.query_words": ["fit"],
    "evaluate.protocols": ["full"],
    "evaluate.prompts": ["{label}"],
    "evaluate.gallery_lines": [3],
    "gate.max_slice_fall": {"category": 0.05},
    "gate.min_slice_recall": {"category": 0.3},
    "gate.floors": {"mean_recall": 0.3},
}


TOWERS = ("model.embed_dim", "model.image_tower", "model.text_tower")


def another(key: str, value: Any) -> Any:
    """Return a valid value other than the given one."""
    if isinstance(value, bool):
        return not value
    if key in ELSEWISE:
        return ELSEWISE[key]
    choices = get_args(annotation(key))
    if value in choices:
        return next(other for other in choices if other != value)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.125
    if value is None:
        return 1 if int in choices else 0.125 if float in choices else "other"
    if isinstance(value, tuple):
        return ["other.tsv"] if str in choices else [0.125]
    return "other"


def annotation(key: str) -> Any:
    """Return the type of a field, by its place in the config."""
    found: Any = RunConfig
    for part in key.split("."):
        found = found.model_fields[part].annotation
    return found


def changed(config: RunConfig, key: str, value: Any) -> RunConfig:
    values = config.model_dump()
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[last] = value
    # Towers of their own make come in pairs, an embedding's width with them.
    if key in TOWERS:
        values["model"] |= {name.partition(".")[2]: ELSEWISE[name] for name in TOWERS}
    return RunConfig.model_validate(values)


def test_there_are_shipped_configs() -> None:
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_names_a_model_that_is_there(path: Path) -> None:
    config = load_config(path)
    if config.model.name.endswith(".json"):
        assert (ROOT / config.model.name).is_file()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x\nsede: 1", "unknown key 'sede'; did you mean 'seed'?"),
        ("name: x\nfinetune: {epoch: 1}", "unknown key 'finetune.epoch'; did you mean 'epochs'?"),
        (
            "name: x\nmodel: {pretraned: null}",
            "unknown key 'model.pretraned'; did you mean 'pretrained'?",
        ),
        ("name: x\nzzzz: 1", "unknown key 'zzzz'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    tmp_path: Path, text: str, sentence: str
) -> None:
    assert refusal(tmp_path, text).endswith(sentence)


@pytest.mark.parametrize("section", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("word_drop", "0.15", "it measured nothing"),
        ("term_warmup", "true", "no figure spoke for it"),
        ("distill_form", "similarity", "embedding is the form that is left"),
        ("distill_form", "embedding", "embedding is the form that is left"),
        ("frozen_epochs", "2", "freeze holds for the whole stage"),
    ],
)
def test_a_key_that_was_removed_is_named_with_the_reason_and_what_to_do(
    tmp_path: Path, section: str, key: str, value: str, reason: str
) -> None:
    sentence = refusal(tmp_path, f"name: x\n{section}: {{{key}: {value}}}")
    assert f"run.yaml: {section}.{key} was removed (" in sentence and reason in sentence
    assert sentence.endswith("docs/training.md); delete the key") and "unknown" not in sentence
    assert f"{section}.{key} was removed" in refusal(
        tmp_path, overrides=(f"{section}.{key}={value}",)
    )


def test_a_removed_key_in_another_section_is_unknown_like_any_other(tmp_path: Path) -> None:
    assert "unknown key 'data.word_drop'" in refusal(tmp_path, "name: x\ndata: {word_drop: 0.1}")
    assert "unknown key 'word_drop'" in refusal(tmp_path, "name: x\nword_drop: 0.1")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("finetune.epochs", "-1"),
        ("finetune.batch_size", "1"),
        ("finetune.lr", "0"),
        ("finetune.lr", ".inf"),
        ("finetune.lr", ".nan"),
        ("finetune.beta2", "1"),
        ("finetune.crop_scale", "1.5"),
        ("pretrain.min_concept_count", "1"),
        ("pretrain.epochs", "2.5"),
        ("seed", "-1"),
        ("seed", "18446744073709551616"),
        ("workers", "-1"),
        ("device", "tpu"),
        ("precision", "fp16"),
        ("data.valid_share", "2"),
        ("evaluate.batch_size", "0"),
        ("export.files", "[]"),
        ("registered_model", "Has Spaces"),
        ("model.name", "3"),
    ],
)
def test_an_impossible_value_is_refused_in_a_sentence_with_its_key_and_value(
    tmp_path: Path, key: str, value: str
) -> None:
    shown = repr(yaml.safe_load(value))
    sentence = refusal(tmp_path, overrides=(f"{key}={value}",))
    assert f"{key} is {shown}" in sentence
    variable = ENVIRONMENT_PREFIX + key.upper().replace(".", "__")
    assert f"{key} is {shown}" in refusal(tmp_path, environment={variable: value})


def test_a_run_that_trains_nothing_is_refused(tmp_path: Path) -> None:
    assert "nothing would be trained" in refusal(
        tmp_path, "name: x\npretrain: {epochs: 0}\nfinetune: {epochs: 0}"
    )


def test_a_missing_name_is_said_without_printing_the_whole_config(tmp_path: Path) -> None:
    assert refusal(tmp_path, "seed: 3").endswith("name is missing; the config must set it")


def test_the_command_line_wins_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path,
) -> None:
    text = "name: x\nseed: 1\nfinetune: {epochs: 11, batch_size: 12, lr: 0.1}"
    environment = {
        "COMMERCE_CLIP__FINETUNE__EPOCHS": "21",
        "COMMERCE_CLIP__FINETUNE__BATCH_SIZE": "22",
        "EPOCHS": "99",
        "FINETUNE__LR": "99",
    }
    config = load(tmp_path, text, ("finetune.epochs=31", "seed=7", "seed=8"), environment)
    assert (
        config.finetune.epochs,
        config.finetune.batch_size,
        config.finetune.lr,
        config.seed,
    ) == (31, 22, 0.1, 8)


@pytest.mark.parametrize(
    ("overrides", "environment", "sentence"),
    [
        (("finetune.epoch=2",), {}, "did you mean 'epochs'?"),
        ((), {"COMMERCE_CLIP__FINETUNE__EPOCH": "2"}, "did you mean 'epochs'?"),
        (("seed.x=2",), {}, "--set seed.x=2: 'seed' is a value, not a section"),
        (
            (),
            {"COMMERCE_CLIP__SEED__X": "2"},
            "COMMERCE_CLIP__SEED__X: 'seed' is a value, not a section",
        ),
        (("seed",), {}, "--set seed: expected section.key=value"),
        (("seed=[1",), {}, "'[1' is not a YAML value"),
        ((f"seed={'[' * 500_000}",), {}, "is not a YAML value"),
        (("=2",), {}, "unknown key ''"),
    ],
)
def test_an_override_that_cannot_be_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    assert sentence in refusal(tmp_path, "name: x\nseed: 1", overrides, environment)


def test_an_override_reaches_into_a_section_that_the_file_leaves_out(tmp_path: Path) -> None:
    config = load(tmp_path, "name: x", ("data.max_caption_chars=7", "export.files=[a.tsv, b.tsv]"))
    assert (config.data.max_caption_chars, config.export.files) == (7, ("a.tsv", "b.tsv"))


def test_an_override_of_a_section_that_shares_an_anchor_leaves_the_other_alone(
    tmp_path: Path,
) -> None:
    config = load(
        tmp_path, "name: x\npretrain: &stage {epochs: 3}\nfinetune: *stage", ("finetune.epochs=9",)
    )
    assert (config.pretrain.epochs, config.finetune.epochs) == (3, 9)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("5e-4", "finetune.lr", 5e-4),
        ("1", "finetune.lr", 1.0),
        ("null", "model.pretrained", None),
        ("laion2b_s34b_b79k", "model.pretrained", "laion2b_s34b_b79k"),
        ("true", "finetune.flip", True),
        ("no", "finetune.flip", False),
        ("'a=b'", "data.path", "a=b"),
        ("a=b", "data.path", "a=b"),
    ],
)
def test_numbers_booleans_and_null_mean_themselves(
    tmp_path: Path, text: str, key: str, value: object
) -> None:
    config = load(tmp_path, "name: x\nmodel: {pretrained: tag}", (f"{key}={text}",))
    assert dict(leaves(config))[key] == value


def test_a_config_is_frozen(tmp_path: Path) -> None:
    config = load(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.finetune.epochs = 3  # type: ignore[misc]


def test_a_missing_file_is_named_with_the_configs_that_there_are(tmp_path: Path) -> None:
    load(tmp_path)
    with pytest.raises(
        ConfigError, match=r"ran\.yaml: no such config file; did you mean '.*run\.yaml'\?"
    ):
        load_config(tmp_path / "ran.yaml")
    with pytest.raises(ConfigError, match=r"no such config file; known: .*run\.yaml"):
        load_config(tmp_path / ("far from it" * 20))
    with pytest.raises(ConfigError, match=r"no such config file$"):
        load_config(tmp_path / "none" / "run.yaml")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"#" * (MAX_CONFIG_BYTES + 1), "at most 1,000,000 bytes"),
        (b"- name", "expected a mapping of config keys, found list"),
        (b"", "expected a mapping of config keys, found NoneType"),
        (b"name: [", "not valid YAML"),
        (b"name: \xff", "not valid YAML"),
        (b"[" * 500_000, "not valid YAML (nested more than 20 levels deep)"),
        (b"name: x\nseed: 2001-99-99", "not valid YAML"),
        (b"name: x\nseed: !!int ''", "not valid YAML"),
        (b"name: x\nseed: !!bool maybe", "not valid YAML"),
        (b"name: x\nseed: !!timestamp now", "not valid YAML"),
        (b"name: x\n? [1]\n: 2", "not valid YAML"),
        (b"name: x\n1: 2", "keys should be strings"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_a_sentence(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_python_object_in_yaml_is_never_made(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    poison = f"!!python/object/apply:os.mkdir ['{canary}']"
    yaml.unsafe_load(poison)
    assert canary.is_dir(), "the poison works where it is let in"
    canary.rmdir()
    assert "not valid YAML" in refusal(tmp_path, f"name: {poison}")
    assert "is not a YAML value" in refusal(tmp_path, overrides=(f"name={poison}",))
    assert "is not a YAML value" in refusal(tmp_path, environment={"COMMERCE_CLIP__NAME": poison})
    assert not canary.exists()


def test_aliases_that_multiply_are_refused_before_they_do(tmp_path: Path) -> None:
    lists = [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "more than 20 aliases" in refusal(tmp_path, "\n".join(["b0: &b0 lol", *lists]))
    merges = [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    assert "more than 20 aliases" in refusal(tmp_path, "\n".join(["m0: &m0 {a: 1}", *merges]))


def test_a_few_anchors_are_as_good_as_writing_a_section_twice(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "name: x\npretrain: &stage {epochs: 3, lr: 0.1}\nfinetune: {<<: *stage, epochs: 2}",
    )
    assert (config.finetune.epochs, config.finetune.lr) == (2, 0.1)


def fields(section: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
    for name, field in section.model_fields.items():
        yield f"{section.__name__}.{name}", field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation)


def test_every_field_says_what_it_is() -> None:
    assert [
        name for name, description in fields(RunConfig) if not (description or "").endswith(".")
    ] == []


def test_the_digest_ignores_the_name_the_threads_and_the_place_of_the_data_and_nothing_else(
    tmp_path: Path,
) -> None:
    config = load(tmp_path)
    unmoved = set()
    for key, value in leaves(config):
        other = changed(config, key, another(key, value))
        assert other != config
        if other.digest() == config.digest():
            unmoved.add(key)
    assert unmoved == WITHOUT_DIGEST
    assert len(config.digest()) == 64 and config.digest() == load(tmp_path).digest()


def test_one_word_stands_for_every_kind_of_leak_and_a_kind_may_have_its_own(tmp_path: Path) -> None:
    kinds = ("image", "near_image", "caption", "product")
    plain = load(tmp_path, "name: x\ndata: {on_leak: drop}").data.on_leak
    assert plain.model_dump() == dict.fromkeys(kinds, "drop")
    text = "name: x\ndata: {on_leak: {caption: allow, image: drop}}"
    assert load(tmp_path, text).data.on_leak.model_dump() == {
        "image": "drop",
        "near_image": "refuse",
        "caption": "allow",
        "product": "refuse",
    }
    both = load(tmp_path, "name: x\ndata: {on_leak: drop}", ("data.on_leak.caption=allow",))
    assert both.data.on_leak.kinds("drop") == ["image", "near_image", "product"]
    assert both.data.on_leak.kinds("allow") == ["caption"]


def test_a_slip_in_a_leak_policy_is_one_sentence(tmp_path: Path) -> None:
    assert "data.on_leak is 'dorp': input should be 'refuse', 'drop' or 'allow'" in refusal(
        tmp_path, overrides=("data.on_leak=dorp",)
    )
    assert "did you mean 'caption'" in refusal(tmp_path, overrides=("data.on_leak.captoin=drop",))
    assert "data.on_leak.image" in refusal(tmp_path, overrides=("data.on_leak.image=maybe",))
