"""`python -m flows predict FILE --out FILE`: embeddings of one file, without a server."""

from pathlib import Path

from flows.cli.terminal import print_line
from tasks.embeddings.predict import Form, Truncation, predict_file


def predict(
    tsv: str,
    model: str,
    out: str,
    form: Form,
    device: str,
    precision: str,
    batch_size: int,
    workers: int,
    truncate: Truncation,
    context_length: int | None,
) -> None:
    """Write the embeddings and tell what was embedded."""
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
        f"{tsv}: {done.rows:,} {what} in {done.width} numbers each, {done.faulty:,} lines faulty → {out}"
    )
