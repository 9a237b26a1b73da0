"""`commerce-clip models …`: the family of models, in and out; no server is needed."""

from flows.cli.terminal import print_facts, print_table
from flows.parameters import ListedModel
from model.errors import ConfigError, nearest, typed
from model.zoo.family import FAMILY, find_published


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
        closest = nearest(name, [known.name for known in FAMILY])
        raise ConfigError(f"{name}: no such model{closest}; `{typed('models list')}` lists them")

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
