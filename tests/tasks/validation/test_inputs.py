"""Caches lie with the data version's reports, made once; images are cached only if asked for."""

import logging
from pathlib import Path

import numpy as np
import pytest

from model.config.load import RunConfig
from model.pairs.index import PairIndex, PairSource, index_pairs
from model.pairs.profile import profile_files, write_profile
from model.towers.folder import load_towers
from model.towers.towers import Towers
from tasks.runtime.records import DataVersion, Run, TrainedModel, Validation
from tasks.validation import inputs
from tasks.validation.inputs import index_input
from tests.runs import lineage


@pytest.fixture
def towers(weights: TrainedModel) -> Towers:
    return load_towers(weights.folder, "cpu")


@pytest.fixture
def index(miniature: Path, validation: Validation, config: RunConfig) -> PairIndex:
    tsv, files = miniature / "finetune" / "test.tsv", profile_files(validation.profiles, "test")
    write_profile(tsv, files, config.data)
    return index_pairs([PairSource(tsv, files.table)])


def run_with(config: RunConfig, data: DataVersion, folder: Path, decoded_cache: bool) -> Run:
    chosen = config.model_copy(update={"decoded_cache": decoded_cache, "workers": 0})
    return Run(config=chosen, data=data, lineage=lineage(), folder=folder, mlflow_run_id="")


@pytest.mark.parametrize(
    ("decoded_cache", "crops_centre", "kinds"),
    [
        (False, True, ["tokens"]),
        (True, False, ["tokens"]),
        (True, True, ["decoded-images", "tokens"]),
    ],
)
def test_a_split_is_cached_as_far_as_the_config_and_its_crops_allow(
    config: RunConfig,
    data: DataVersion,
    validation: Validation,
    index: PairIndex,
    towers: Towers,
    decoded_cache: bool,
    crops_centre: bool,
    kinds: list[str],
) -> None:
    run = run_with(config, data, validation.profiles, decoded_cache)
    pairs = index_input(run, validation, "test", index, towers, crops_centre)
    assert len(pairs) == len(index) and (pairs.decoded is not None) == (len(kinds) == 2)
    left = sorted(path.name for path in (validation.profiles / "cache").glob("*.cache"))
    assert [name.rpartition("-")[0] for name in left] == kinds


def test_progress_is_shown_while_caches_are_made_and_their_size_is_told_before(
    config: RunConfig,
    data: DataVersion,
    validation: Validation,
    index: PairIndex,
    towers: Towers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown, honest = list[tuple[str, int]](), inputs.progress
    monkeypatch.setattr(
        inputs,
        "progress",
        lambda what, total, unit: shown.append((what, total)) or honest(what, total, unit),
    )
    run = run_with(config, data, validation.profiles, decoded_cache=True)
    with caplog.at_level(logging.INFO):
        first, again = (index_input(run, validation, "test", index, towers) for _ in range(2))
    assert shown == [("tokens of test", len(index)), ("decoded images of test", len(index))]
    assert np.array_equal(first.tokens, again.tokens)
    megabytes = len(index) * 3 * towers.image_size**2 / 1e6
    assert f"test: decoded images take {megabytes:.1f} MB" in caplog.text
