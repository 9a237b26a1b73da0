"""`commerce-clip models import|convert`: models of others, in and out."""

from pathlib import Path

from flows.cli.terminal import print_facts, print_line, print_next
from flows.parameters import (
    Activation,
    ConvertedForm,
    ImportedName,
    ImportedTowers,
    Licence,
    Model,
    NewFolder,
    PublishedPath,
    WeightsHash,
)
from model.errors import typed
from tasks.registry.zoo import export_published, import_published


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
    print_next([typed(f"retrain --set model.pretrained={name}")])


def convert_to_form(
    source: Model,
    /,
    *,
    to: ConvertedForm,
    out: NewFolder,
) -> None:
    """Write a registered version, an imported model or a model folder as others publish models."""
    print_line(f"{source} as {to}: {export_published(source, to, Path(out))}")
