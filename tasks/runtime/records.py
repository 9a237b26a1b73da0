"""What stages hand to each other: small frozen records, JSON on disk and in Prefect, no tensors."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from model.config.load import RunConfig
from model.storage.files import atomic_write
from model.storage.sealed import MANIFEST, WEIGHTS_FILE


class Record(BaseModel):
    """A frozen result of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the record that a file holds, None where it is missing or damaged."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, path: Path) -> None:
        """Leave the record in a file.

        Raises:
            CommerceClipError: the disk is full or the folder cannot be written.
        """
        with atomic_write(path) as file:
            file.write(self.model_dump_json(indent=2).encode())

    def files(self) -> list[Path]:
        """Return the files without which the record does not count as finished."""
        return [value for value in self.__dict__.values() if isinstance(value, Path)]

    def identity(self) -> str:
        """Return the name of this result for later stages, empty where the data version is one."""
        return ""


class DataVersion(Record):
    """A folder of pairs as it is on disk, named by the hash that DVC gives it."""

    folder: Path
    version: str
    is_tracked: bool
    file_md5: dict[str, str]

    @property
    def short(self) -> str:
        """First characters of the version, for names that people read."""
        return self.version[:8]


class Lineage(Record):
    """What a run is made of, hashed once: all of it, and what names the model that it starts from.

    ``start`` names the architecture, the base weights and the edited tables of concepts.
    """

    fingerprint: str
    start: tuple[str, str, str]

    @property
    def base_weights(self) -> str:
        """The base weights by a file's SHA-256, a tag or the seed."""
        return self.start[1]


class Run(Record):
    """What every stage of one run shares."""

    config: RunConfig
    data: DataVersion
    lineage: Lineage
    folder: Path
    mlflow_run_id: str

    @property
    def fingerprint(self) -> str:
        """The hash by which a run of the same data, code, config and base weights is known."""
        return self.lineage.fingerprint


class SplitCounts(Record):
    """What validation found in one TSV: lines = accepted + quarantined.

    ``leaked`` of the accepted share something with test. ``repeats`` counts accepted lines by what
    of an earlier line they repeat, each once; ``leaks`` by what they share with test, where a line
    may count several times.
    """

    name: str
    lines: int
    accepted: int
    quarantined: int
    faults: dict[str, int]
    repeats: dict[str, int]
    leaks: dict[str, int]
    leaked: int


class Reading(Record):
    """How the text tower reads a split's captions: tokens a word, and the share that is longer.

    ``captions`` were counted; of each ``context`` tokens are read.
    """

    name: str
    captions: int
    context: int
    tokens_a_word: float
    longer: float


class Validation(Record):
    """Where profiles and Data Docs of a data version lie, and what they say.

    ``warnings`` are sentences; ``reading`` is empty where no model was named.
    """

    profiles: Path
    docs: Path
    counts: list[SplitCounts]
    expectations: int
    warnings: list[str] = []
    reading: list[Reading] = []


class Retention(Record):
    """Mean recall, before and after a stage, on pretraining pairs that nothing was trained on."""

    pairs: int
    before: float
    after: float


class TrainedModel(Record):
    """A model folder that a training stage left, with the epoch that was best on valid.

    ``coefficient`` says how far its weights lie from the start weights (0) to those of that epoch
    (1), ``precision`` in which arithmetic it was trained; empty where it was not.
    """

    folder: Path
    weights_sha256: str
    best_epoch: int
    valid_mean_recall: float
    coefficient: float = 1.0
    precision: str = ""
    retention: Retention | None = None

    def files(self) -> list[Path]:
        """Return the weights and their manifest."""
        return [self.folder / MANIFEST, self.folder / WEIGHTS_FILE]

    def identity(self) -> str:
        """Return the hash of the weights."""
        return self.weights_sha256


class Evaluation(Record):
    """Test metrics of the new model, its base weights and the champion, and their files.

    ``figures`` holds all that was measured with intervals, ``card`` is the model card beside
    weights of this run.
    """

    metrics: dict[str, float]
    base_metrics: dict[str, float]
    base_weights_sha256: str
    figures: Path
    gallery: Path
    pictures: list[Path]
    retention: Retention | None = None
    champion_metrics: dict[str, float] | None = None
    card: Path | None = None


class Version(Record):
    """A registered model version."""

    name: str
    number: int
    mlflow_run_id: str


class Check(Record):
    """One condition of the gate: what was measured (None if it could not be), limit, verdict."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    note: str = ""


class Decision(Record):
    """Whether a version was promoted, and why.

    ``champion`` is the version that it was compared with. A settled decision was carried out by an
    earlier try. ``risk`` is the chance of a false promotion that the decision took of the year's.
    """

    version: int
    is_promoted: bool
    aliases: list[str]
    reason: str
    champion: int | None = None
    checks: list[Check] = []
    is_settled: bool = False
    risk: float = 0.0


class Export(Record):
    """Embedding files with their row counts: lines = rows + faulty."""

    folder: Path
    files_written: list[Path]
    lines: int
    rows: int
    faulty: int
