"""What is wrong with a command is found before anything heavy is imported or any server started.

The checks are those of the long way, made early, in half a second; what costs more is left to it.
"""

import os
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import Any, get_args

from flows.cli.arguments import Command
from flows.cli.terminal import print_progress
from flows.parameters import Described
from flows.settings import protocol_overrides, read_config
from model.config.load import RunConfig
from model.config.sections import ModelConfig
from model.errors import ConfigError, nearest
from model.towers.imported import (
    find_imported,
    is_tag,
    require_architecture,
    require_name_on_shelf,
    require_weights_file,
)
from tasks.data.card import card_in
from tasks.data.dvc import TrackedFolder, data_folder
from tasks.registry.reading import read_registry
from tasks.runtime.environment import ROOT, models_folder

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)[/@](?P<which>[^/@]+)")


def check_inputs(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a command, for a flow with its paths as seen from the checkout's root.

    Flows run there, wherever the user stands. A place that is not where the user stands may be one
    of the checkout's.

    Raises:
        ConfigError: a file or model is not there; names the first of them.
    """
    checked = dict(given)
    for option in command.options():
        value = given[option.name]
        (names,) = (each.names for each in get_args(option.annotation) if type(each) is Described)
        if names in ("input", "model"):
            require = _require_path if names == "input" else _require_model
            for each in [value] if isinstance(value, str) else value or ():
                require(each)

        if command.printer is None or not value or Path.cwd() == ROOT:
            continue
        if option.name == "overrides":
            checked[option.name] = list(map(_override_from_root, value))
        elif names is not None:
            move = _place_from_root if names == "place" else _absolute
            checked[option.name] = move(value) if isinstance(value, str) else list(map(move, value))
    return checked


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _place_from_root(text: str) -> str:
    is_here, is_ours = Path(text).exists(), (ROOT / text).exists()
    is_config_name = Path(text).name == text and (ROOT / "configs" / f"{text}.yaml").is_file()
    return text if is_config_name or (is_ours and not is_here) else _absolute(text)


def _override_from_root(override: str) -> str:
    """Return ``key=value`` with the absolute path where the value is a path that exists."""
    key, equals, value = override.partition("=")
    is_path = "/" in value and Path(value).exists()
    return f"{key}{equals}{_absolute(value) if is_path else value}"


def _require_path(text: str) -> None:
    path = Path(text)
    if not path.exists():
        beside = [other.name for other in path.parent.glob("*")]
        raise ConfigError(f"{path}: no such file or folder{nearest(path.name, beside)}")


def _require_model(source: str) -> None:
    registered = REGISTERED.fullmatch(source)
    if registered is None:
        folders = [path.name for path in models_folder().glob("*") if path.is_dir()]
        if source not in folders and not Path(source).is_dir():
            raise ConfigError(
                f"{source}: no such model{nearest(source, folders)}; name a registered one "
                "(models:/NAME@ALIAS or models:/NAME/VERSION), an imported one or a model folder"
            )
        return

    # Where the registry cannot be read without MLflow, the long way finds out.
    registry, (name, which) = read_registry(), registered.group("name", "which")
    if registry is not None:
        numbers = [str(version.number) for version in registry.versions if version.name == name]
        known = [*registry.aliases.get(name, {}), *numbers]
        if which not in known:
            raise ConfigError(
                f"{source}: the registry has no such version "
                f"(of {name} known: {', '.join(known) or 'none'})"
            )


def begin(command: Command, given: Mapping[str, Any]) -> None:
    """Print the first line of a run: what is known of it before it starts.

    Raises:
        ConfigError: the config is missing, or a key or value is wrong.
    """
    if "config" not in given:
        return
    settings = _settings(given)
    pairs = TrackedFolder(data_folder(settings.data.path))
    text = pairs.tracked.read_text(encoding="utf-8") if pairs.tracked.is_file() else ""
    words, card = [f"{settings.name}: {pairs.folder.name}"], card_in(text)
    if card is not None:
        accepted = sum(rows.accepted for rows in card.splits.values())
        words = [f"{settings.name}: {accepted:,} pairs of data version {card.name}"]

    model = settings.model
    towers = [each for each in (model.image_tower, model.text_tower) if each is not None]
    makes = [(each.name, each.pretrained) for each in towers] or [(model.name, model.pretrained)]
    words.append(" and ".join(starmap(_named, makes)))
    print_progress(_stage(command), ", ".join(words))


def _named(name: str | None, start: str | None) -> str:
    """Name a model or a tower by its weights where they are its own, else by its architecture."""
    return Path(name if name and (start is None or is_tag(start)) else start or "").stem


def check_run(command: Command, given: Mapping[str, Any]) -> None:
    """Refuse a run whose model or pairs are not there, and print that it starts.

    Raises:
        ConfigError: architecture or base weights are unknown.
        DataError: the folder of pairs or one of its files is missing.
    """
    if "config" in given:
        settings = _settings(given)
        _check_model(settings.model)
        folder = data_folder(settings.data.path)
        is_tracked = folder == data_folder() or TrackedFolder(folder).tracked.is_file()
        if "data" in given and not is_tracked:
            import_module("model.pairs.splits").find_split_files(folder)

    if command.starts_run:
        server = os.environ.get("PREFECT_API_URL")
        print_progress(_stage(command), f"run on {server}" if server else "starting Prefect …")


def _stage(command: Command) -> str:
    return command.function.partition(":")[2]


def _settings(given: Mapping[str, Any]) -> RunConfig:
    return read_config(
        given["config"],
        [*given["overrides"], *protocol_overrides(given.get("protocols"))],
        given.get("data"),
        given.get("device", "config"),
        given.get("precision", "config"),
        given.get("finetune_epochs"),
    )


def _check_model(model: ModelConfig) -> None:
    shelf = models_folder()
    if find_imported(model.pretrained, shelf) is not None:
        return
    require_name_on_shelf(model.pretrained, shelf)
    if model.pretrained is not None and not is_tag(model.pretrained):
        require_weights_file(model.pretrained, Path(model.pretrained))

    # open_clip keeps a file for each of its models; to import it takes seconds.
    spec = find_spec("open_clip")
    assert spec is not None and spec.submodule_search_locations, "open_clip is installed"
    configs = Path(spec.submodule_search_locations[0]) / "model_configs"
    require_architecture(model.name, [path.stem for path in configs.glob("*.json")])
