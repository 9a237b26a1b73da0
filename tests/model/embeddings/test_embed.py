"""A batch at a time or one by one, a pair's embedding is the same, and every line is either embedded or faulty."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch

from model.batches.loading import Crop, load_batch, pair_input
from model.config.sections import DataConfig
from model.embeddings.embed import (
    Products,
    embed_captions,
    embed_encoded_images,
    embed_pairs,
    embed_products,
)
from model.errors import DataError
from model.evaluation.retrieval import evaluate_retrieval, relate
from model.evaluation.split import evaluate_split
from model.pairs.index import PairSource, index_pairs
from model.pairs.profile import profile_files, write_profile
from model.pairs.tsv import LineColumns, count_lines
from model.towers.towers import Towers, encode_images, encode_texts
from tests.tiny import WIDTH, TinyData, drawn_jpeg, profiled

LIMITS = DataConfig(max_line_bytes=20_000, max_pixels=10_000)
GOOD = base64.b64encode(drawn_jpeg("red shirt", 1))
OTHER = base64.b64encode(drawn_jpeg("blue bag", 2, side=40))
FAULTY_IMAGES = [
    b"!!!!",
    base64.b64encode(b"no picture"),
    base64.b64encode(drawn_jpeg("red shirt", 1)[:-20]),
    base64.b64encode(drawn_jpeg("red shirt", 1, side=8)),
    base64.b64encode(drawn_jpeg("red shirt", 1, side=120)),
    b"A" * 30_000,
]
LINES: dict[LineColumns, list[bytes]] = {
    "pair": [
        b"red shirt\t" + GOOD,
        b"no tab",
        b"blue bag\t" + OTHER,
        b"\t" + GOOD,
        b"caf\xe9\t" + GOOD,
        *[b"teal shoe\t" + image for image in FAULTY_IMAGES],
        b"one\ttoo many\t" + GOOD,
        b"",
        b"red shirt\t" + OTHER,
    ],
    "text": [
        b"red shirt",
        b"",
        b"a\ttab",
        b"blue bag",
        b"caf\xe9",
        b"x" * 30_000,
        b"bell\x07",
        b"NA",
    ],
    "image": [GOOD, *FAULTY_IMAGES, b"", b"a\ttab", OTHER],
}
ACCEPTED: dict[LineColumns, list[int]] = {"pair": [1, 3, 14], "text": [1, 4, 8], "image": [1, 10]}


@pytest.fixture
def still(towers: Towers) -> Towers:
    """Return towers that are not training."""
    towers.clip.eval()
    return towers


@torch.inference_mode()
def test_a_split_in_batches_equals_its_pairs_one_by_one(still: Towers, tiny_data: TinyData) -> None:
    pairs = pair_input(still.input_spec, tiny_data.valid_index())
    done: list[int] = []
    text_ND, image_ND = embed_pairs(still, pairs, batch_size=10, workers=2, on_rows=done.append)
    assert done == [10, 10, 10, 2]
    assert (
        text_ND.shape == image_ND.shape == (32, WIDTH)
        and text_ND.dtype == image_ND.dtype == torch.float32
    )
    for row in range(32):
        one = load_batch(pairs, np.array([row]), Crop(still.image_size))
        caption = pairs.index.caption(row)
        torch.testing.assert_close(
            encode_texts(still, [caption])[0], text_ND[row], rtol=0, atol=1e-6
        )
        torch.testing.assert_close(
            encode_images(still, one.images)[0], image_ND[row], rtol=0, atol=1e-6
        )


def test_captions_of_equal_tokens_have_the_same_bits_whatever_stands_beside_them(
    still: Towers, tiny_data: TinyData
) -> None:
    pairs = pair_input(still.input_spec, tiny_data.train_index())
    text, _ = embed_pairs(still, pairs, batch_size=33, workers=0)
    _, first, row = np.unique(pairs.tokens, axis=0, return_index=True, return_inverse=True)
    assert len(first) < len(pairs) and torch.equal(
        text, text[torch.from_numpy(first)[torch.from_numpy(row).view(-1)]]
    )


def test_towers_that_were_training_are_judged_as_they_will_be_served(
    towers: Towers, tiny_data: TinyData
) -> None:
    towers.clip.train()
    embed_pairs(
        towers, pair_input(towers.input_spec, tiny_data.valid_index()), batch_size=32, workers=0
    )
    assert not towers.clip.training


def test_captions_and_pictures_alone_get_the_embeddings_that_pairs_get(
    still: Towers, tiny_data: TinyData
) -> None:
    index = tiny_data.valid_index()
    text_ND, image_ND = embed_pairs(
        still, pair_input(still.input_spec, index), batch_size=32, workers=0
    )
    captions = embed_captions(still, [index.caption(row) for row in range(32)], batch_size=7)
    images = embed_encoded_images(
        still, [index.encoded_image(row) for row in range(32)], batch_size=7
    )
    torch.testing.assert_close(captions, text_ND, rtol=0, atol=1e-6)
    torch.testing.assert_close(images, image_ND, rtol=0, atol=1e-6)


def test_nothing_to_embed_gives_no_rows(still: Towers) -> None:
    assert embed_captions(still, []).shape == embed_encoded_images(still, []).shape == (0, WIDTH)


def test_a_picture_that_cannot_be_decoded_is_named_by_its_row(still: Towers) -> None:
    good = drawn_jpeg("red shirt", 1)
    with pytest.raises(ValueError, match="image in row 3: truncated_image"):
        embed_encoded_images(still, [good, good, good, good[:-20]], batch_size=2)


def embedded_products(
    towers: Towers, tsv: Path, columns: LineColumns, batch_size: int = 2, workers: int = 1
) -> tuple[list[Products], int]:
    """Embed the accepted lines of a TSV; return them and how many rows were counted."""
    files = profile_files(tsv.parent, "products")
    write_profile(tsv, files, LIMITS, columns)
    pairs = pair_input(
        towers.input_spec, index_pairs([PairSource(tsv, files.table, columns)]), tsv.parent
    )
    counted: list[int] = []
    products = list(embed_products(towers, pairs, batch_size, workers, counted.append))
    return products, sum(counted)


@pytest.mark.parametrize("columns", ["pair", "text", "image"])
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 1), (100, 3)])
def test_every_line_is_embedded_or_faulty_and_its_number_is_kept(
    still: Towers, tmp_path: Path, columns: LineColumns, batch_size: int, workers: int
) -> None:
    tsv = tmp_path / "products.tsv"
    tsv.write_bytes(b"\n".join(LINES[columns]) + b"\n")
    products, counted = embedded_products(still, tsv, columns, batch_size, workers)
    lines = [line for batch in products for line in batch.lines]
    assert lines == ACCEPTED[columns]
    assert counted == len(lines) and count_lines(tsv) == len(LINES[columns])
    for batch in products:
        for wanted, embedding in (
            (columns != "image", batch.texts),
            (columns != "text", batch.images),
        ):
            assert (embedding is not None) == wanted
            assert embedding is None or embedding.shape == (len(batch.lines), WIDTH)


@pytest.mark.parametrize("columns", ["pair", "text", "image"])
def test_export_and_validation_agree_on_what_is_faulty(
    still: Towers, tmp_path: Path, columns: LineColumns
) -> None:
    tsv = tmp_path / "products.tsv"
    tsv.write_bytes(b"\n".join(LINES[columns]) + b"\n")
    summary = write_profile(tsv, profile_files(tmp_path, "products"), LIMITS, columns)
    products, _ = embedded_products(still, tsv, columns)
    assert sum(len(batch.lines) for batch in products) == summary.accepted


@pytest.mark.parametrize(("columns", "field"), [("text", 0), ("image", 1)])
def test_captions_or_images_alone_get_the_bits_that_they_have_in_pairs(
    still: Towers, tmp_path: Path, columns: LineColumns, field: int
) -> None:
    pairs = [LINES["pair"][row] for row in (0, 2, 13)]
    (tmp_path / "pairs.tsv").write_bytes(b"\n".join(pairs))
    alone = b"".join(line.split(b"\t")[field] + b"\r\n" for line in pairs)
    (tmp_path / "alone.tsv").write_bytes(alone)
    whole, _ = embedded_products(still, tmp_path / "pairs.tsv", "pair")
    part, _ = embedded_products(still, tmp_path / "alone.tsv", columns)
    for one, both in zip(part, whole, strict=True):
        assert one.lines == both.lines
        assert (one.images is None) == (columns == "text") != (one.texts is None)
        found, wanted = (one[1 + field], both[1 + field])
        assert found is not None and wanted is not None and torch.equal(found, wanted)


def test_a_file_of_captions_that_changed_since_it_was_profiled_is_refused(
    still: Towers, tmp_path: Path
) -> None:
    tsv, files = tmp_path / "texts.tsv", profile_files(tmp_path, "texts")
    tsv.write_bytes(b"red shirt\nblue bag\n")
    write_profile(tsv, files, LIMITS, "text")
    tsv.write_bytes(b"red shirt\nteal bag\n")
    with pytest.raises(DataError, match=r"texts.tsv line 2: not the line that was profiled"):
        index_pairs([PairSource(tsv, files.table, "text")])


def test_a_product_s_embeddings_are_those_of_its_own_line(still: Towers, tmp_path: Path) -> None:
    tsv = tmp_path / "products.tsv"
    tsv.write_bytes(b"\n".join(LINES["pair"]) + b"\n")
    products, _ = embedded_products(still, tsv, "pair")
    texts = torch.cat([batch.texts for batch in products if batch.texts is not None])
    images = torch.cat([batch.images for batch in products if batch.images is not None])
    expected_texts = embed_captions(still, ["red shirt", "blue bag", "red shirt"])
    expected_images = embed_encoded_images(
        still, [base64.b64decode(image) for image in (GOOD, OTHER, OTHER)]
    )
    torch.testing.assert_close(texts, expected_texts, rtol=0, atol=1e-6)
    torch.testing.assert_close(images, expected_images, rtol=0, atol=1e-6)


def test_judging_equals_ranking_by_hand_over_distinct_captions_and_images(
    still: Towers, tmp_path: Path
) -> None:
    pairs = [("red shirt", 1), ("red shirt", 2), ("blue bag", 3), ("teal shoe", 4), ("blue bag", 3)]
    drawn = [(caption, drawn_jpeg(caption, seed)) for caption, seed in pairs]
    drawn.append(("white dress", drawn[3][1]))
    index = index_pairs([profiled(tmp_path / "test.tsv", drawn)])
    result = evaluate_split(
        still, pair_input(still.input_spec, index), batch_size=4, block_rows=2, workers=0
    )
    texts = embed_captions(still, ["red shirt", "blue bag", "teal shoe", "white dress"])
    images = embed_encoded_images(still, [drawn[row][1] for row in (0, 1, 2, 3)])
    related = relate(["r", "r", "b", "t", "w"], ["1", "2", "3", "4", "4"])
    by_hand = evaluate_retrieval(texts, images, related, 1024)
    assert result.to_json() == by_hand.to_json()
    assert (result.text_to_image.queries, result.text_to_image.candidates) == (4, 4)
    similarity = texts.double() @ images.double().T
    right = [{0, 1}, {2}, {3}, {3}]
    found = [int(similarity[query].argmax()) in right[query] for query in range(4)]
    assert result.text_to_image.rank_at[1] == sum(found) / 4
