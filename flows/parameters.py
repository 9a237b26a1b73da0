"""The parameters of flows and commands: typed and described once, for Prefect's form and for
`--help`.

The command line reads signatures without importing the modules that they stand in, and finds the
names in them here. So this module imports nothing heavy: pydantic alone takes 0.08 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

SAMPLE_CONFIG = "configs/sample.yaml"
OUR_MODEL = "commerce-clip"
NO_REASON = "no reason given"


@dataclass(frozen=True)
class Described:
    """What a parameter is for, which values it may have, and how the command line takes it.

    ``ge`` and ``min_length`` are pydantic's. ``flag`` is the option where that is not the
    parameter's name, ``metavar`` stands for the value in `--help`; a ``repeated`` option takes one
    value at a time.
    """

    text: str
    ge: int | None = None
    min_length: int | None = None
    flag: str | None = None
    metavar: str | None = None
    repeated: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        """Return the schema of the type within its limits."""
        from pydantic import Field

        return handler(Annotated[source, Field(ge=self.ge, min_length=self.min_length)])

    def __get_pydantic_json_schema__(
        self, schema: "CoreSchema", handler: "GetJsonSchemaHandler"
    ) -> dict[str, Any]:
        """Return the schema with the text in it: Prefect's form loses pydantic's own."""
        return {**handler(schema), "description": self.text}


class _ValidName:
    """The config's type of a name, which pydantic asks for when a flow is made."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        from model.config.sections import Name

        return handler(Name)


Config = Annotated[str, Described("YAML file of the run, or its name in configs/ (sample).")]
Data = Annotated[
    str | None,
    Described("Folder of pairs (train.tsv, test.tsv) in place of the config's data.path."),
]
# A choice beside None would hide its choices in Prefect's form, so "config" stands for what the
# config says.
Device = Annotated[
    Literal["config", "auto", "cpu", "cuda", "mps"],
    Described("Where the towers run; config: as the config says."),
]
Precision = Annotated[
    Literal["config", "fp32", "bf16"],
    Described("Arithmetic of the towers; config: as the config says."),
]
FinetuneEpochs = Annotated[
    int | None,
    Described(
        "Passes over the train split, in place of the config's finetune.epochs.",
        ge=0,
    ),
]
Overrides = Annotated[
    Sequence[str],
    Described(
        "Other knobs as section.key=value, for example finetune.lr=1e-4.",
        flag="--set",
        metavar="SECTION.KEY=VALUE",
        repeated=True,
    ),
]
WhenBusy = Annotated[
    Literal["skip", "wait"],
    Described(
        "While another run trains this model: skip ends at once, wait starts after it, "
        "on the newest data then."
    ),
]
Protocols = Annotated[
    str | None,
    Described(
        "Protocols, comma between them, in place of the config's evaluate.protocols.",
        flag="--protocol",
        metavar="full,101",
    ),
]
RegisteredModel = Annotated[str, _ValidName(), Described("Name in the MLflow model registry.")]
VersionNumber = Annotated[int, Described("Number of the registered version.", ge=1)]
WhichVersion = Annotated[
    str, Described("Registered version: its number, or champion, challenger, previous.")
]
Reason = Annotated[str, Described("Why; kept as a tag of the version.", min_length=1)]
DropName = Annotated[
    str, Described("Name of the new data version: lower-case letters, digits, '.', '_' and '-'.")
]
SplitFile = Annotated[
    str | None,
    Described("TSV of this split; without it the current version's is taken over.", metavar="TSV"),
]
PretrainFiles = Annotated[
    Sequence[str],
    Described("TSVs for continued pretraining, in place of the current version's.", metavar="TSV"),
]
MendedFile = Annotated[
    str | None,
    Described(
        "A <split>.quarantine.tsv of the current version with lines repaired by hand.",
        metavar="QUARANTINE",
    ),
]
