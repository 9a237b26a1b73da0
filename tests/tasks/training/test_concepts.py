"""What a run shows of its concepts is a picture of what the model makes of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.batches.loading import PairInput, pair_input
from model.concepts.mining import Vocabulary, mine_concepts
from model.concepts.nearest_images import nearest_images, spread_pairs, weightiest_concepts
from model.concepts.table import CONCEPTS_FILE, write_concepts
from model.config.load import RunConfig
from model.config.sections import ModelConfig
from model.embeddings.embed import embed_pairs
from model.pairs.index import PairSource, index_pairs
from model.pairs.profile import profile_files
from model.towers.create import create_towers
from model.towers.folder import save_towers
from model.towers.towers import Towers
from tasks.pages.pictures import Block, GridRow, Tile
from tasks.runtime.records import DataVersion, Run
from tasks.training.concepts import (
    concepts_png,
    keyword_phrases,
    report_concepts,
)
from tests.runs import lineage
from tests.tiny import COLOURS, THINGS, drawn_jpeg, write_data, write_model


def row(is_named: bool, concept: str = "red") -> GridRow:
    near = tuple(Tile(drawn_jpeg("red bag", seed), is_named) for seed in range(5))
    return GridRow(concept, (Block(near), Block(near)), "1,234 captions")


def test_the_picture_has_a_row_a_concept_and_frames_what_is_named() -> None:
    one, two = (
        Image.open(io.BytesIO(concepts_png("title", ["before", "after"], rows)))
        for rows in ([row(True)], [row(True), row(False)])
    )
    assert one.format == "PNG" and one.width == two.width > 1500 and two.height > one.height
    green = [
        int((np.asarray(each.convert("RGB")) == (18, 129, 63)).all(axis=2).sum())
        for each in (one, two)
    ]
    assert green[0] == green[1] > 1000


def test_a_foreign_phrase_and_a_broken_picture_are_drawn_all_the_same() -> None:
    concept, block = "连衣裙 \x1b[31m\u202e" + "x" * 500, Block((Tile(b"no image"),))
    drawn = concepts_png("\x1b", ["before"], [GridRow(concept, (block,), "1 captions")])
    assert Image.open(io.BytesIO(drawn)).format == "PNG"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    write_data(folder)
    return write_model(folder), folder


def input_of(towers: Towers, folder: Path, name: str) -> PairInput:
    return pair_input(
        towers.input_spec,
        index_pairs([PairSource(folder / f"{name}.tsv", profile_files(folder, name).table)]),
    )


def test_the_nearest_images_are_those_of_the_slow_twin(tiny: tuple[ModelConfig, Path]) -> None:
    model, folder = tiny
    towers = create_towers(model, device="cpu")
    train, valid = (input_of(towers, folder, name) for name in ("train", "valid"))
    vocabulary = Vocabulary((*COLOURS, *THINGS), (8,) * 8 + (16,) * 4, 64)
    made_of, searched = spread_pairs(train, 40), spread_pairs(valid, 16)
    assert len(made_of) == 40 and [searched.index.line[place] for place in (0, 15)] == [1, 32]
    labels = vocabulary.label(made_of.index.captions())
    concepts = weightiest_concepts(vocabulary, labels, 5)
    assert len(concepts) == 5
    found = nearest_images(towers, made_of, labels, searched, concepts, 3, batch_size=7, workers=0)
    text, image = (side.double() for side in embed_pairs(towers, made_of, 32, 0))
    pictures = embed_pairs(towers, searched, 32, 0)[1].double()
    for near, concept in zip(found, concepts, strict=True):
        members = [place for place in range(40) if concept in labels[place].tolist()]
        sides = [side[members].mean(0) - side.mean(0) for side in (image, text)]
        prototype = sum(side / side.norm() for side in sides)
        similarity = (pictures - image.mean(0)) @ (prototype / prototype.norm())
        assert near.concept == concept
        assert torch.allclose(similarity[near.rows], similarity.topk(3).values, atol=1e-6)


def run_in(folder: Path, model: ModelConfig, **finetune: object) -> Run:
    config = RunConfig.model_validate(
        {"name": "tiny", "workers": 0, "model": model, "finetune": finetune}
    )
    data = DataVersion(folder=folder, version="v" * 32, is_tracked=False, file_md5={})
    return Run(config=config, data=data, lineage=lineage(), folder=folder, mlflow_run_id="none")


def test_a_stage_leaves_the_table_and_the_picture_and_attaches_both(
    tiny: tuple[ModelConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = tiny
    attached: list[tuple[object, ...]] = []
    monkeypatch.setattr("tasks.training.concepts.attach", lambda *given: attached.append(given))
    run, towers = run_in(tmp_path, model), create_towers(model, device="cpu")
    for name in ("start", "best"):
        save_towers(towers, tmp_path / name)
    train, valid = (input_of(towers, folder, name) for name in ("train", "valid"))
    vocabulary = mine_concepts(train.index.captions(), 5)
    write_concepts(vocabulary, tmp_path / "finetune" / CONCEPTS_FILE)
    report_concepts(
        run, "finetune", vocabulary, train, valid, tmp_path / "start", tmp_path / "best"
    )
    files = [tmp_path / "finetune" / name for name in ("concepts.parquet", "concepts.png")]
    assert attached == [("none", files, "finetune")] and all(
        file.stat().st_size > 500 for file in files
    )
    assert set(keyword_phrases(run, None).phrases) == set(vocabulary.phrases)


def test_keyword_queries_use_an_edited_table_where_fine_tuning_left_none(
    tiny: tuple[ModelConfig, Path], tmp_path: Path
) -> None:
    write_concepts(Vocabulary(("teapot", "red"), (1, 2), 3, ((), ())), tmp_path / "edited.parquet")
    run = run_in(tmp_path / "run", tiny[0], concepts=str(tmp_path / "edited.parquet"))
    assert set(keyword_phrases(run, None).phrases) == {"teapot", "red"}


def test_the_weightiest_concepts_have_members_and_are_not_in_every_pair() -> None:
    vocabulary = Vocabulary(("all", "often", "once", "rare", "unseen"), (10, 5, 1, 2, 3), 12)
    labels = np.full((10, 16), -1, dtype=np.int32)
    labels[:, 0] = 0
    labels[:5, 1], labels[5, 1], labels[6:8, 1] = 1, 2, 3
    assert weightiest_concepts(vocabulary, labels, 9) == [1, 3]
    assert weightiest_concepts(vocabulary, labels, 1) == [1]
    assert weightiest_concepts(vocabulary, labels[:0], 9) == []
