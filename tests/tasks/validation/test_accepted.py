"""What is held out of the pretraining pairs is trained on by no stage, in whatever pair it is."""

from pathlib import Path

import numpy as np
import pytest

from model.config.load import RunConfig
from model.config.sections import DataConfig
from model.pairs.profile import profile_files, write_profile
from model.pairs.splits import find_split_files, read_side_table, side_table_path
from tasks.pages.text import format_retention
from tasks.runtime.records import DataVersion, Evaluation, Retention, Run, Validation
from tasks.validation.accepted import split_index, tsv_files
from tasks.validation.leaks import SplitWithProducts, compare_splits
from tests.runs import lineage
from tests.tiny import COLOURS, drawn_jpeg, profiled

COLOUR_NAMES = list(COLOURS)


def write_split(tsv: Path, pairs: list[tuple[str, int]], ids: list[str] | None = None) -> None:
    tsv.parent.mkdir(exist_ok=True)
    profiled(
        tsv, [(f"{caption} number {seed}", drawn_jpeg(caption, seed)) for caption, seed in pairs]
    )
    if ids is not None:
        side_table_path(tsv).write_text("id\n" + "".join(f"{each}\n" for each in ids))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataVersion, Validation]:
    """Two pretraining files of 12 and 4 pairs.

    Of the first, lines 1 to 3 are poses of one product, line 4 is a product of train, line 5 has a
    caption and picture of train, and line 6 those of line 1 of the second file.
    """
    folder, profiles = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("profiles")
    first = [(f"{COLOUR_NAMES[row % 8]} {'shirt' if row < 8 else 'bag'}", row) for row in range(12)]
    second = [first[5], *((f"{colour} shoe", 20) for colour in COLOUR_NAMES[:3])]
    train = [first[4], *((f"{colour} dress", 30) for colour in COLOUR_NAMES)]
    write_split(folder / "pretrain" / "a.tsv", first, ["p", "p", "p", "t", *map(str, range(8))])
    write_split(folder / "pretrain" / "b.tsv", second)
    write_split(
        folder / "finetune" / "train.tsv", train, ["x", "t", *(f"x{row}" for row in range(7))]
    )
    write_split(
        folder / "finetune" / "test.tsv", [(f"{colour} bag", 40) for colour in COLOUR_NAMES]
    )
    splits = {
        name: SplitWithProducts(tsv, read_side_table(tsv, False))
        for name, tsv in tsv_files(find_split_files(folder)).items()
    }
    for name, split in splits.items():
        write_profile(split.tsv, profile_files(profiles, name), DataConfig(), processes=1)
    compare_splits(profiles, splits)
    version = DataVersion(folder=folder, version="d" * 32, is_tracked=False, file_md5={})
    return version, Validation(profiles=profiles, docs=profiles, counts=[], expectations=1)


def lines(
    data: tuple[DataVersion, Validation], name: str, share: float, seed: int = 0
) -> set[tuple[str, int]]:
    config = RunConfig.model_validate(
        {"name": "any", "seed": seed, "data": {"pretrain_valid_share": share}}
    )
    run = Run(
        config=config, data=data[0], lineage=lineage(), folder=data[0].folder, mlflow_run_id=""
    )
    index = split_index(run, data[1], name)
    return {
        (index.files[file].stem, line)
        for file, line in zip(index.file, index.line.tolist(), strict=True)
    }


@pytest.mark.parametrize("seed", range(6))
def test_what_is_held_out_shares_no_product_caption_or_picture_with_what_is_trained_on(
    data: tuple[DataVersion, Validation], seed: int
) -> None:
    held, trained = (lines(data, name, 0.5, seed) for name in ("retention", "pretrain"))
    everything = {("a", line) for line in range(1, 13)} | {("b", line) for line in range(1, 5)}
    assert held | trained == everything and not held & trained and 6 <= len(held) <= 8
    assert not {("a", 4), ("a", 5)} & held, "train has their product, or their caption and picture"
    for together in ({("a", 1), ("a", 2), ("a", 3)}, {("a", 6), ("b", 1)}):
        assert together <= held or together <= trained


def test_other_seeds_hold_out_others_and_a_seed_the_same(
    data: tuple[DataVersion, Validation],
) -> None:
    assert len({frozenset(lines(data, "retention", 0.3, seed)) for seed in range(6)}) > 1
    assert lines(data, "retention", 0.3) == lines(data, "retention", 0.3)


def test_without_a_share_nothing_is_held_out(data: tuple[DataVersion, Validation]) -> None:
    assert len(lines(data, "pretrain", 0.0)) == 16 and lines(data, "retention", 0.0) == set()


def test_retention_is_told_in_one_line_and_kept_with_the_evaluation(tmp_path: Path) -> None:
    retention = Retention(pairs=1200, before=0.5, after=0.456)
    assert format_retention(retention) == (
        "mean recall on 1,200 held-out pretraining pairs 50.0 % before, 45.6 % after fine-tuning"
    )
    values = {
        "metrics": {},
        "base_metrics": {},
        "base_weights_sha256": "0",
        "figures": tmp_path,
        "gallery": tmp_path,
    }
    evaluation = Evaluation.model_validate({**values, "pictures": [], "retention": retention})
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation
    assert np.isclose(evaluation.model_dump()["retention"]["after"], 0.456)
