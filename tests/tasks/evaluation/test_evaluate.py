import io
import logging
from pathlib import Path

import pytest
from PIL import Image

from model.config.load import RunConfig
from tasks.evaluation.charts import rank_chart
from tasks.evaluation.compare import choose_captions
from tasks.evaluation.tables import rank_table
from tasks.runtime.records import DataVersion, Run
from tests.runs import lineage
from tests.tasks.evaluated import ask, split


def metrics(share: float) -> dict[str, float]:
    return {
        f"{direction}_{kind}_at_{k}": share * k / 10 if kind == "rank" else k / 1000
        for direction in ("text_to_image", "image_to_text")
        for kind in ("rank", "chance")
        for k in (1, 5, 10)
    }


def test_the_table_shows_each_direction_and_k_beside_chance_and_base_weights_in_percent() -> None:
    table = rank_table(metrics(0.5), metrics(0.1))
    assert [(row["direction"], row["measure"]) for row in table] == [
        (direction, f"Rank@{k}")
        for direction in ("text → image", "image → text")
        for k in (1, 5, 10)
    ]
    assert table[1] == {
        "direction": "text → image",
        "measure": "Rank@5",
        "chance": "0.5",
        "base weights": "5.0",
        "new model": "25.0",
    }


def test_the_chart_is_a_picture_wide_enough_to_read() -> None:
    models = {"new model": metrics(0.5), "champion": metrics(0.4), "base weights": metrics(0.1)}
    picture = Image.open(io.BytesIO(rank_chart("title", models)))
    assert picture.format == "PNG"
    assert picture.width > 1000


def test_the_champion_stands_between_base_weights_and_the_new_model() -> None:
    row = rank_table(metrics(0.5), metrics(0.1), metrics(0.4))[0]
    assert list(row) == ["direction", "measure", "chance", "base weights", "champion", "new model"]
    assert row["champion"] == "4.0"


def test_keyword_queries_have_rows_of_their_own_where_there_are_any() -> None:
    keywords = {f"keyword_{kind}_at_{k}": 0.25 for kind in ("rank", "chance") for k in (1, 5, 10)}
    table = rank_table(metrics(0.5) | keywords, metrics(0.1) | keywords)
    assert [row["direction"] for row in table[6:]] == ["keywords → image"] * 3
    assert table[6] | {"new model": "25.0", "chance": "25.0"} == table[6]
    assert len(rank_table(metrics(0.5), metrics(0.1))) == 6


def test_the_gallery_shows_captions_spread_over_test_or_those_of_the_lines_that_a_person_chose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = split(tmp_path)
    questions = ask(test)

    def chosen(**evaluate: object) -> list[int]:
        config = RunConfig.model_validate({"name": "tiny", "evaluate": evaluate})
        data = DataVersion(folder=tmp_path, version="d" * 32, is_tracked=False, file_md5={})
        run = Run(config=config, data=data, lineage=lineage(), folder=tmp_path, mlflow_run_id="")
        return choose_captions(run, test, questions)

    assert chosen(gallery_queries=3) == [0, 15, 31]
    assert chosen(gallery_queries=1000) == list(range(32))
    with caplog.at_level(logging.WARNING):
        assert chosen(gallery_lines=[7, 3, 7, 99]) == [6, 2]
    assert "no accepted pair in line 99" in caplog.text
