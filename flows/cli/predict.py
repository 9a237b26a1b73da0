"""`python -m flows predict FILE --out FILE`: embeddings of one file, without a server."""

from pathlib import Path
from typing import Annotated, Literal

from flows.cli.terminal import print_line
from flows.parameters import Described
from tasks.embeddings.predict import predict


def predict_file(
    tsv: Annotated[str, Described("Captions, base64 of images, or both in two columns.")],
    /,
    *,
    out: Annotated[str, Described("Where the embeddings go.", metavar="FILE")],
    model: Annotated[
        str,
        Described("models:/name@alias, models:/name/version, an imported model or a model folder."),
    ] = "models:/commerce-clip@champion",
    form: Annotated[
        Literal["parquet", "easynlp"],
        Described("easynlp: floats between tabs.", flag="--format"),
    ] = "parquet",
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], Described("Where the towers run.")
    ] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], Described("Arithmetic of the towers.")] = "fp32",
    truncate: Annotated[
        Literal["open_clip", "easynlp"],
        Described(
            "How a caption of too many tokens is cut: easynlp leaves out the end of text, "
            "as EasyNLP's own code does."
        ),
    ] = "open_clip",
    batch_size: Annotated[int, Described("Lines embedded at a time.", ge=1)] = 256,
    workers: Annotated[int, Described("Threads that decode images ahead.", ge=1)] = 1,
    context_length: Annotated[
        int | None, Described("Tokens of a caption that a Chinese model reads.", ge=1)
    ] = None,
) -> None:
    """Write the embeddings of a TSV of captions, of images or of pairs."""
    done = predict(
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
        f"{done.faulty:,} lines faulty → {out}"
    )
