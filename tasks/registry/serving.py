"""Make the form that a version is served from, and compare it with torch's towers first.

What fails a comparison is not registered. Imports torch; costs the two exports (8 s of a core for
the sample's tiny ViT, 20 s for ViT-B-32) and embedding 64 pairs twice, with 8-bit weights the test
split once more.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import torch

from model.batches.crops import centre_crop, decode_image
from model.batches.loading import pair_input
from model.embeddings import served as served_module
from model.embeddings.embed import embed_captions, embed_pairs
from model.embeddings.served import EMBEDDER_FILE, TEXT_MODEL, ServedTowers
from model.embeddings.serving import write_served
from model.errors import CheckpointError, FaultReason, NoPortableForm
from model.evaluation.retrieval import RetrievalResult, evaluate_retrieval, relate
from model.pairs.index import PairIndex, PairSource, index_pairs
from model.pairs.profile import profile_files
from model.pairs.splits import find_split_files
from model.storage.sealed import MANIFEST, sealed_folder
from model.towers.folder import load_towers
from model.towers.onnx_export import quantise_text
from model.towers.towers import Towers, encode_images
from tasks.registry.served_parts import Served
from tasks.runtime.log import run_logger
from tasks.runtime.records import Run, TrainedModel, Validation

COMPARED_PAIRS = 64
MOST_DIFFERENCE = 1e-5  # of an embedding's value, float32
MOST_LEVELS = 2  # of 255, between Pillow's resize and ours
QUERIES_AT_ONCE = 1024  # of queries ranked at a time
MOST_LOSS = 0.003  # of mean recall on test, by 8-bit weights


def serve_model(run: Run, validation: Validation, model: TrainedModel) -> Served:
    """Return the checked served form of a model, made once a run; torch's where there is none.

    Raises:
        CheckpointError: the form gives other embeddings than the model; the disk is full.
    """
    record = run.folder / "register" / "served.json"
    kept = Served.read(record)
    is_same = kept is not None and kept.weights_sha256 == model.weights_sha256
    if kept is not None and is_same and all(path.is_dir() for path in kept.files()):
        return kept

    towers, test = load_towers(model.folder, "cpu"), _test_index(run, validation)
    folder = record.with_name("served")
    try:
        with sealed_folder(folder) as temporary:
            write_served(towers, temporary)
            shutil.copyfile(str(served_module.__file__), temporary / EMBEDDER_FILE)
    except NoPortableForm as error:
        run_logger().warning("served by torch: %s", error)
        made = Served(
            weights_sha256=model.weights_sha256, folder=None, note=f"by torch, as {error}"
        )
    else:
        compare(towers, folder, test)
        note = "by ONNX"
        if run.config.serve.int8_text:
            folder, note = _try_int8(run, model, folder, test)
        made = Served(weights_sha256=model.weights_sha256, folder=folder, note=note)

    made.write(record)
    return made


def _test_index(run: Run, validation: Validation) -> PairIndex:
    test = find_split_files(run.data.folder).test
    return index_pairs([PairSource(test, profile_files(validation.profiles, "test").table)])


@torch.inference_mode()
def compare(towers: Towers, folder: Path, test: PairIndex) -> None:
    """Compare a served folder with towers on up to 64 pairs of test.

    Raises:
        CheckpointError: tokens, pixels, embeddings or Rank@K differ; says which and by how much.
    """
    rows = np.unique(np.linspace(0, len(test) - 1, COMPARED_PAIRS).astype(np.int64))
    pairs, theirs = test.take(rows), ServedTowers(folder)
    captions = list(pairs.captions())
    images = [pairs.encoded_image(row) for row in range(len(pairs))]

    # The same tokens, but for padding that no embedding depends on.
    for caption, ids, row in zip(
        captions, theirs.token_ids(captions), towers.tokenizer(captions).tolist(), strict=True
    ):
        if row[: len(ids)] != ids:
            raise _differs(f"the tokens of {caption!r:.80}")

    squares = []
    for place, encoded in enumerate(images):
        decoded = decode_image(encoded)
        assert not isinstance(decoded, FaultReason), "the profile accepted it"
        squares.append(centre_crop(decoded, towers.image_size, towers.resizing))
        levels = np.abs(theirs.pixels(encoded).astype(np.int16) - squares[-1].numpy()).max()
        if levels > MOST_LEVELS:
            raise _differs(f"the pixels of {pairs.where(place)}, by {levels} levels of 255,")

    pixels = torch.stack(squares)
    parts = [
        encode_images(towers, part) for part in torch.split(pixels, served_module.IMAGES_AT_ONCE)
    ]
    exact = embed_captions(towers, captions), torch.cat(parts)
    found = (
        torch.from_numpy(theirs.embed_captions(captions)),
        torch.from_numpy(theirs.embed_pixels(pixels.numpy())),
    )
    for kind, ours, other in zip(("text", "image"), exact, found, strict=True):
        difference = float((ours - other).abs().max())
        if not difference <= MOST_DIFFERENCE:
            raise _differs(f"{kind} embeddings, by {difference:.1e},")
    if _ranked(*exact, pairs).metrics() != _ranked(*found, pairs).metrics():
        raise _differs("Rank@K of 64 pairs")


def _ranked(texts: torch.Tensor, images: torch.Tensor, pairs: PairIndex) -> RetrievalResult:
    related = relate(pairs.caption_hash.tolist(), pairs.image_hash.tolist())
    texts, images = texts[related.caption_row], images[related.image_row]
    return evaluate_retrieval(texts, images, related, QUERIES_AT_ONCE)


def _differs(what: str) -> CheckpointError:
    return CheckpointError(
        f"the served form of the model differs from it ({what} at most "
        f"{MOST_DIFFERENCE:g} allowed for embeddings); not registered, please report it"
    )


def _try_int8(run: Run, model: TrainedModel, exact: Path, test: PairIndex) -> tuple[Path, str]:
    """Return the folder with an 8-bit text tower, or the exact one where recall falls too far."""
    folder = exact.with_name("served-int8")
    with sealed_folder(folder) as temporary:
        for path in exact.iterdir():
            if not path.name.startswith(TEXT_MODEL) and path.name != MANIFEST:
                os.link(path, temporary / path.name)
        quantise_text(exact / TEXT_MODEL, temporary / TEXT_MODEL)

    # Images by the run's own device: it may be fast, and theirs are the exact ones.
    settings = run.config.evaluate
    towers = load_towers(model.folder, run.config.device, run.config.precision)
    pairs = pair_input(towers.input_spec, test)
    texts, images = embed_pairs(towers, pairs, settings.batch_size, run.config.workers)
    small = torch.from_numpy(ServedTowers(folder).embed_captions(list(test.captions())))

    loss = _ranked(texts, images, test).mean_recall - _ranked(small, images, test).mean_recall
    figure = f"mean recall on test {-100 * loss:+.2f} points"
    if loss <= MOST_LOSS:
        return folder, f"by ONNX, text tower in 8 bits ({figure})"
    run_logger().warning(
        "text tower in 8 bits: %s, at most -%g allowed; it stays in float32",
        figure,
        100 * MOST_LOSS,
    )
    return exact, f"by ONNX; text tower in 8 bits refused ({figure})"
