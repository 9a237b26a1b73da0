"""`python -m flows models …`: the family of models, in and out; no server is needed."""

from pathlib import Path

from flows.cli.terminal import print_facts, print_line, print_table
from flows.parameters import (
    Activation,
    ConvertedForm,
    ImportedName,
    ImportedTowers,
    Licence,
    ListedModel,
    Model,
    NewFolder,
    PublishedPath,
    WeightsHash,
)
from model.errors import ConfigError, nearest
from model.zoo.family import FAMILY, find_published
from tasks.registry.zoo import export_published, import_published


def print_family() -> None:
    """List known models: towers, language, parameters, licence, where their weights come from."""
    rows = [
        {
            "name": row.name,
            "towers": row.towers,
            "language": row.language,
            "pixels": str(row.resolution),
            "parameters": f"{row.parameters} M",
            "licence": row.licence,
            "weights from": row.source,
        }
        for row in FAMILY
    ]
    print_table("The family", rows, right=("pixels", "parameters"))


def print_model(
    name: ListedModel,
    /,
) -> None:
    """Print what is known of one model.

    Raises:
        ConfigError: the table has no such model.
    """
    row = find_published(name)
    if row is None:
        names = [known.name for known in FAMILY]
        raise ConfigError(
            f"{name}: no such model{nearest(name, names)}; `python -m flows models list` lists them"
        )

    facts = {
        "towers": row.towers,
        "open_clip name": row.architecture or "none; its files say it all",
        "language": row.language,
        "pixels": str(row.resolution),
        "parameters": f"{row.parameters} million",
        "activation": row.activation,
        "licence": row.licence,
        "weights from": row.source,
        "published as": row.form,
        "verified": row.verified,
    }
    print_facts(row.name, facts)


def import_base_weights(
    path: PublishedPath,
    /,
    *,
    name: ImportedName,
    towers: ImportedTowers = None,
    activation: Activation = None,
    sha256: WeightsHash = None,
    licence: Licence = None,
) -> None:
    """Make base weights of a model as published."""
    folder, origin = import_published(Path(path), name, towers, activation, sha256, licence)
    print_facts(name, {key: str(value) for key, value in origin.items()} | {"folder": str(folder)})
    print_line(f"next: python -m flows retrain --set model.pretrained={name}")


def convert_to_form(
    source: Model,
    /,
    *,
    to: ConvertedForm,
    out: NewFolder,
) -> None:
    """Write a registered version, an imported model or a model folder as others publish models."""
    print_line(f"{source} as {to}: {export_published(source, to, Path(out))}")
