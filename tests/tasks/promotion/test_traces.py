"""Versions that are split anew at random: a champion is asked nothing that it was trained on."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model.config.load import RunConfig
from model.config.sections import DataConfig
from model.pairs.profile import profile_files, write_profile
from model.pairs.repeats import REPEATS_SCHEMA
from model.storage.tables import write_table
from tasks.promotion.scoring import choose_pairs
from tasks.promotion.traces import keep_traces
from tasks.registry.versions import DATA_VERSION_TAG
from tasks.runtime.records import DataVersion, Run, Validation
from tasks.validation.accepted import leaks_path
from tests.golden import encoded, picture
from tests.model.pairs.test_tsv import pair_line
from tests.tasks.conftest import run_of

pytestmark = pytest.mark.faults(kind="J2: seen test pairs", trials=2)

PRODUCTS = 40
PAIRS = {
    product: [
        pair_line(f"item {product} view {view}", encoded(picture(64, 64, 100 * product + view)))
        for view in range(2)
    ]
    for product in range(PRODUCTS)
}


def version(
    config: RunConfig, folder: Path, week: int, in_test: set[int]
) -> tuple[Run, Validation, SimpleNamespace]:
    """A data version with these products in test, profiled, and a model that trained on it."""
    pairs, reports = folder / f"week-{week}", folder / f"reports-{week}"
    pairs.mkdir()
    for name, products in (("train", set(PAIRS) - in_test), ("test", in_test)):
        lines = [line for product in sorted(products) for line in PAIRS[product]]
        (pairs / f"{name}.tsv").write_bytes(b"\n".join(lines) + b"\n")
        ids = [f"p{product}" for product in sorted(products) for _ in PAIRS[product]]
        (pairs / f"{name}.products.csv").write_text("\n".join(["id", *ids]) + "\n")
        write_profile(
            pairs / f"{name}.tsv", profile_files(reports, name), DataConfig(), processes=1
        )
        write_table(REPEATS_SCHEMA.empty_table(), leaks_path(reports, name))

    data = DataVersion(folder=pairs, version=f"{week:032x}", is_tracked=False, file_md5={})
    run = run_of(config, data, folder, f"{config.registered_model}-{week}")
    run.folder.mkdir()
    validation = Validation(profiles=reports, docs=reports, counts=[], expectations=5)
    registered = SimpleNamespace(
        version=str(week), run_id=run.mlflow_run_id, tags={DATA_VERSION_TAG: data.version}
    )
    return run, validation, registered


def test_what_the_champion_trained_on_is_left_out_counted_and_of_no_product_that_is_left(
    config: RunConfig, state: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    old, new = (set(rng.permutation(PRODUCTS)[:20].tolist()) for _ in range(2))
    first, first_validation, champion = version(config, tmp_path, 1, old)
    keep_traces(first, first_validation)
    run, validation, challenger = version(config, tmp_path, 2, new)
    keep_traces(run, validation)

    rows, compared = choose_pairs(run, validation, [challenger, champion], [])
    left = sorted(old & new)
    assert [sorted(new)[row // 2] for row in rows.tolist()] == [p for p in left for _ in range(2)]
    assert (compared.products, compared.all_products) == (len(left), 20)
    assert compared.left_out["product"] == compared.left_out["image"] == 2 * len(new - old)
    assert compared.unknown == ()


def test_a_champion_without_traces_is_unknown_and_one_of_the_same_data_has_seen_nothing(
    config: RunConfig, state: Path, tmp_path: Path
) -> None:
    _, _, champion = version(config, tmp_path, 3, set(range(20)))
    run, validation, challenger = version(config, tmp_path, 4, set(range(10, 30)))
    rows, compared = choose_pairs(run, validation, [challenger, champion], [])
    assert len(rows) == 40 and compared.unknown == ("version 3",)
    rows, compared = choose_pairs(run, validation, [challenger, challenger], [])
    assert len(rows) == 40 and compared.unknown == () and not any(compared.left_out.values())
