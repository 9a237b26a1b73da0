"""`commerce-clip predict FILE --out FILE`: embeddings of one file, without a server."""

from pathlib import Path

from flows.cli.terminal import print_line
from flows.parameters import (
    BatchSize,
    ContextLength,
    EmbeddingsFile,
    EmbeddingsForm,
    Model,
    PredictDevice,
    PredictedFile,
    PredictPrecision,
    Truncate,
    Workers,
)
from tasks.embeddings.predict import predict_file


def print_predicted(
    tsv: PredictedFile,
    /,
    *,
    out: EmbeddingsFile,
    model: Model = "models:/commerce-clip@champion",
    form: EmbeddingsForm = "parquet",
    device: PredictDevice = "auto",
    precision: PredictPrecision = "fp32",
    truncate: Truncate = "open_clip",
    batch_size: BatchSize = 256,
    workers: Workers = 1,
    context_length: ContextLength = None,
) -> None:
    """Write the embeddings of a TSV of captions, of images or of pairs."""
    done = predict_file(
        Path(tsv),
        model,
        Path(out),
        form,
        device,
        precision,
        batch_size,
        workers,
        truncate,
        context_length,
    )

    what = {"pair": "captions and images", "text": "captions", "image": "images"}[done.columns]
    print_line(
        f"{tsv}: {done.rows:,} {what} in {done.width} numbers each, "
        f"{done.faulty:,} lines faulty{f' ({done.faults})' if done.faults else ''} → {out}"
    )
