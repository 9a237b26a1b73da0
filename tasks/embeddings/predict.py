"""Embeddings of one file's captions or images by any model, as Parquet or in EasyNLP's form.

EasyNLP's predictor writes one row a line, in the order of the lines and without a header: the
floats of an embedding, each as numpy writes a float32, between tabs. Such a row has no name, so a
line that cannot be embedded stops the prediction and nothing is written; Parquet has line numbers
and passes over it.

Source: EasyNLP's easynlp/appzoo/clip/predictor.py (postprocess) and easynlp/core/predictor.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from model.config.sections import DataConfig
from model.embeddings.columns import write_products
from model.errors import ConfigError, DataError, typed
from model.importers.writer import printable
from model.pairs.mistakes import HEADER_WORDS
from model.pairs.profile import profile_files
from model.pairs.tsv import BOM, HEAD_BYTES, LineColumns, detect_columns
from model.storage.files import atomic_write
from model.towers.create import lengthen_towers
from model.towers.folder import load_towers
from model.zoo.forms.easynlp_english import truncating_as_theirs
from tasks.embeddings.products import accepted_lines, embed_lines, faulty_lines
from tasks.registry.zoo import folder_of

Form = Literal["parquet", "easynlp"]
Truncation = Literal["open_clip", "easynlp"]

# The usual ending of each form, and endings that say another one.
ENDINGS: dict[Form, str] = {"parquet": ".parquet", "easynlp": ".tsv"}
OTHER_ENDINGS: dict[Form, frozenset[str]] = {
    "parquet": frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".npy"}),
    "easynlp": frozenset({".csv", ".parquet", ".json", ".jsonl", ".npy"}),
}


@dataclass(frozen=True)
class Predicted:
    """What was embedded: lines = rows + faulty; the columns that the file has.

    ``faults`` names the first faulty lines with their reasons.
    """

    columns: LineColumns
    lines: int
    rows: int
    width: int
    faults: str

    @property
    def faulty(self) -> int:
        """Return how many lines could not be embedded."""
        return self.lines - self.rows


def predict_file(
    tsv: Path,
    model: str,
    out: Path,
    form: Form = "parquet",
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = 256,
    workers: int = 1,
    truncate: Truncation = "open_clip",
    context_length: int | None = None,
) -> Predicted:
    """Write the embeddings of a TSV of captions, of images or of pairs.

    The model is a registered version, an imported model or a folder. ``truncate`` says how captions
    of too many tokens are cut: EasyNLP leaves out the end of text. ``context_length`` is how many
    tokens of a caption a BERT text tower reads, by default as many as it was trained on. Profile
    and token ids lie in a temporary folder (TMPDIR) meanwhile.

    Raises:
        ConfigError: the model is unknown, reads another number of tokens, or no captions that
            EasyNLP's truncation is for; or ``out`` is named as another form.
        DataError: the file is a CSV, or has no line that can be embedded; in EasyNLP's form, it
            holds pairs or a faulty line.
        CheckpointError: the model is damaged, or ``out`` cannot be written.
    """
    columns = detect_columns(tsv)
    _check_files(tsv, columns, out, form)
    towers = load_towers(folder_of(model), device, precision)
    if truncate == "easynlp":
        towers = truncating_as_theirs(towers)
    if context_length is not None:
        towers = lengthen_towers(towers, context_length)

    with atomic_write(out) as file, TemporaryDirectory(prefix="commerce-clip-") as scratch:
        files = profile_files(Path(scratch), "tsv")
        index, lines = accepted_lines(tsv, files, DataConfig())
        faults = faulty_lines(files)
        if form == "easynlp" and faults:
            raise DataError(
                f"{tsv}: {lines - len(index):,} lines cannot be embedded ({faults}), so rows would "
                "not be lines; repair or remove them"
            )
        products = embed_lines("predict", towers, index, Path(scratch), batch_size, workers)
        if form == "parquet":
            write_products(file, products, columns, towers.embed_dim, {"model": model}, tsv.stem)
        else:
            for batch in products:
                embeddings = batch.texts if batch.images is None else batch.images
                assert embeddings is not None, "one column"
                for row in embeddings.numpy():
                    file.write("\t".join(map(str, row)).encode() + b"\n")
    return Predicted(columns, lines, len(index), towers.embed_dim, faults)


def _check_files(tsv: Path, columns: LineColumns, out: Path, form: Form) -> None:
    """Refuse a CSV, whose header and cells would be taken for captions, and a wrong ``out``.

    Raises:
        ConfigError: ``out`` is named as another form.
        DataError: the file is a CSV; in EasyNLP's form, it holds pairs.
    """
    if out.suffix.lower() in OTHER_ENDINGS[form]:
        raise ConfigError(
            f"--out {out}: {form} is written, not {out.suffix[1:]}; name it {ENDINGS[form]}"
        )
    if form == "easynlp" and columns == "pair":
        raise DataError(
            f"{tsv}: has captions and images, but a row of EasyNLP's form is one embedding; "
            "keep one column"
        )

    # A header names at least two columns, of which one is a usual name.
    with tsv.open("rb") as file:
        header = file.readline(HEAD_BYTES).removeprefix(BOM).decode("utf-8", "replace").strip()
    cells = [cell.strip(' "').lower() for cell in re.split("[,;]", header)]
    has_names = len(cells) > 1 and any(cell.encode() in HEADER_WORDS for cell in cells)
    if columns == "text" and (tsv.suffix.lower() == ".csv" or has_names):
        raise DataError(
            f"{tsv}: is a CSV ({printable(header)}), not lines of captions, of base64 images or of "
            f"both with a tab between; `{typed('import')} csv {tsv} --out FOLDER` makes such "
            "lines where a column names the images"
        )
