"""`python -m flows models list|show|import|convert`: the family of models, in and out; no server is needed."""

from pathlib import Path

from flows.cli.terminal import print_facts, print_line, print_table
from model.errors import ConfigError, nearest
from model.zoo.family import FAMILY, find_row
from tasks.registry.zoo import export_published, import_published


def show_family() -> None:
    """Print the table of known models."""
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


def show(name: str) -> None:
    """Print what is known of one model.

    Raises:
        ConfigError: the table has no such model.
    """
    row = find_row(name)
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


def import_files(
    path: str,
    name: str,
    towers: str | None,
    activation: str | None,
    sha256: str | None,
    licence: str | None,
) -> None:
    """Import a published model and tell how to train from it."""
    folder, origin = import_published(Path(path), name, towers, activation, sha256, licence)
    print_facts(name, {key: str(value) for key, value in origin.items()} | {"folder": str(folder)})
    print_line(f"next: python -m flows retrain --set model.pretrained={name}")


def convert(source: str, to: str, out: str) -> None:
    """Write a model in a published form."""
    print_line(f"{source} as {to}: {export_published(source, to, Path(out))}")
