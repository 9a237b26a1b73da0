"""`python -m flows models …`: the family of models, in and out; no server is needed."""

from pathlib import Path
from typing import Annotated, Literal

from flows.cli.terminal import print_facts, print_line, print_table
from flows.parameters import Described
from model.errors import ConfigError, nearest
from model.zoo.family import FAMILY, find_row
from tasks.registry.zoo import convert, import_published


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
    name: Annotated[str, Described("As `models list` has it.")],
    /,
) -> None:
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


def import_base_weights(
    path: Annotated[str, Described("Folder or weights file as published.")],
    /,
    *,
    name: Annotated[str, Described("For model.pretrained.", flag="--as", metavar="NAME")],
    towers: Annotated[
        str | None,
        Described("A listed model, an open_clip name or JSON, where no file says it."),
    ] = None,
    activation: Annotated[
        Literal["gelu", "quickgelu"] | None, Described("Where no file says it.")
    ] = None,
    sha256: Annotated[
        str | None, Described("What the weights file must have.", metavar="HEX")
    ] = None,
    licence: Annotated[
        str | None,
        Described("Of the weights, where neither the table nor a model card says it."),
    ] = None,
) -> None:
    """Make base weights of a model as published."""
    folder, origin = import_published(Path(path), name, towers, activation, sha256, licence)
    print_facts(name, {key: str(value) for key, value in origin.items()} | {"folder": str(folder)})
    print_line(f"next: python -m flows retrain --set model.pretrained={name}")


def convert_to_form(
    source: Annotated[
        str, Described("models:/name@alias, models:/name/version, a name or a folder.")
    ],
    /,
    *,
    to: Annotated[str, Described("open_clip, easynlp or huggingface.", metavar="FORM")],
    out: Annotated[str, Described("New folder.", metavar="FOLDER")],
) -> None:
    """Write a registered version, an imported model or a model folder as others publish models."""
    print_line(f"{source} as {to}: {convert(source, to, Path(out))}")
