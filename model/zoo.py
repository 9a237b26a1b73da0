"""The family: every published model that this project takes in and gives back, one row a model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """A published model."""

    name: str
    towers: str  # in words
    architecture: str | None  # the open_clip name of its towers; None where the published files say it all
    language: str
    resolution: int  # pixels
    parameters: int  # millions
    licence: str
    source: str  # where its weights come from
    form: str  # NAME of a module in model.forms
    activation: Literal["gelu", "quickgelu", "gelu-tanh"]
    verified: str  # against what its embeddings were compared


FAMILY: tuple[Row, ...] = (
    Row(
        name="pai-clip-commercial-base-en",
        towers="ViT-B-32, 12-layer text transformer",
        architecture="ViT-B-32-quickgelu",
        language="English",
        resolution=224,
        parameters=151,
        licence="Apache-2.0",
        source="EasyNLP's model zoo",
        form="easynlp",
        activation="quickgelu",
        verified="EasyNLP's towers as a twin in the tests",
    ),
)


def find_row(name: str) -> Row | None:
    """Return the row of a name, None where the table has none."""
    return next((row for row in FAMILY if row.name == name), None)


def licence_of(name: str) -> str | None:
    """Return the licence of a row of the table, None where it has no such row."""
    row = find_row(name)
    return row.licence if row else None
