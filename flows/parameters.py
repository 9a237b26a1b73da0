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
    value at a time. A command looks for what a value ``names``: an input must be there, a place may
    be one of the checkout's, too, a model is known or registered.
    """

    text: str
    ge: int | None = None
    min_length: int | None = None
    flag: str | None = None
    metavar: str | None = None
    repeated: bool = False
    names: Literal["input", "place", "model"] | None = None

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


Config = Annotated[
    str, Described("YAML file of the run, or its name in configs/ (sample).", names="place")
]
Data = Annotated[
    str | None,
    Described(
        "Folder of pairs (train.tsv, test.tsv) in place of the config's data.path.", names="place"
    ),
]
# A choice beside None would hide its choices in Prefect's form, so "config" stands for what the
# config says.
Device = Annotated[
    Literal["config", "auto", "cpu", "cuda", "mps"],
    Described("Where the towers run; config: as the config says."),
]
Precision = Annotated[
    Literal["config", "fp32", "bf16", "auto"],
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
    Described(
        "TSV of this split; without it the current version's is taken over.",
        metavar="TSV",
        names="input",
    ),
]
FeedFile = Annotated[
    str | None,
    Described(
        "TSV of all pairs, split by product into train, valid and test, the same in every version.",
        metavar="TSV",
    ),
]
PretrainFiles = Annotated[
    Sequence[str],
    Described(
        "TSVs for continued pretraining, in place of the current version's.",
        metavar="TSV",
        names="input",
    ),
]
MendedFile = Annotated[
    str | None,
    Described(
        "A <split>.quarantine.tsv of the current version with lines repaired by hand.",
        metavar="QUARANTINE",
        names="input",
    ),
]

# ---- what commands without a flow take ----

Model = Annotated[
    str,
    Described(
        "models:/name@alias, models:/name/version, an imported model or a model folder.",
        names="model",
    ),
]
PredictedFile = Annotated[
    str, Described("Captions, base64 of images, or both in two columns.", names="input")
]
EmbeddingsFile = Annotated[str, Described("Where the embeddings go.", metavar="FILE")]
EmbeddingsForm = Annotated[
    Literal["parquet", "easynlp"],
    Described("easynlp: floats between tabs.", flag="--format"),
]
PredictDevice = Annotated[Literal["auto", "cpu", "cuda", "mps"], Described("Where the towers run.")]
PredictPrecision = Annotated[Literal["fp32", "bf16"], Described("Arithmetic of the towers.")]
Truncate = Annotated[
    Literal["open_clip", "easynlp"],
    Described(
        "How a caption of too many tokens is cut: easynlp leaves out the end of text, "
        "as EasyNLP's own code does."
    ),
]
BatchSize = Annotated[int, Described("Lines embedded at a time.", ge=1)]
Workers = Annotated[int, Described("Threads that decode images ahead.", ge=1)]
ContextLength = Annotated[
    int | None, Described("Tokens of a caption that a Chinese model reads.", ge=1)
]
ListedModel = Annotated[str, Described("As `models list` has it.")]
PublishedPath = Annotated[str, Described("Folder or weights file as published.", names="input")]
ImportedName = Annotated[str, Described("For model.pretrained.", flag="--as", metavar="NAME")]
ImportedTowers = Annotated[
    str | None,
    Described("A listed model, an open_clip name or JSON, where no file says it."),
]
Activation = Annotated[Literal["gelu", "quickgelu"] | None, Described("Where no file says it.")]
WeightsHash = Annotated[str | None, Described("What the weights file must have.", metavar="HEX")]
Licence = Annotated[
    str | None,
    Described("Of the weights, where neither the table nor a model card says it."),
]
ConvertedForm = Annotated[
    str,
    Described(
        "open_clip, huggingface, easynlp, easynlp-first or chinese-clip; a form that has no place "
        "for the model's towers is refused.",
        metavar="FORM",
    ),
]
NewFolder = Annotated[str, Described("New folder.", metavar="FOLDER")]
ImportKind = Annotated[
    str, Described("fashion-gen, muge, chinese-clip, webdataset, csv or easynlp.")
]
ImportSources = Annotated[
    Sequence[str], Described("Files or folders.", metavar="source", names="input")
]
TsvFolder = Annotated[str, Described("Where the TSVs go.", metavar="FOLDER")]
ImportOverrides = Annotated[
    Sequence[str],
    Described("An option of the kind.", flag="--set", metavar="KEY=VALUE", repeated=True),
]
NamedDataVersion = Annotated[str, Described("Name, beginning of a hash, or current.")]
Compare = Annotated[Literal["published"] | None, Described("Print published figures beside ours.")]
