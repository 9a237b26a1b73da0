import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.config.load import RunConfig
from model.errors import DataError
from model.towers.folder import load_towers
from tasks.embeddings import export as module
from tasks.runtime.environment import ROOT
from tasks.runtime.records import DataVersion, Export, Run, TrainedModel, Version
from tests.runs import lineage

VERSION = Version(name="shop", number=3, mlflow_run_id="")


@pytest.fixture
def folder(miniature: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(miniature / "finetune", tmp_path / "flat"))


def export(
    folder: Path, weights: TrainedModel, monkeypatch: pytest.MonkeyPatch, state: Path, *files: str
) -> tuple[Export, Path]:
    monkeypatch.setattr(module, "registered_model", lambda version: weights)
    monkeypatch.setattr(module, "record_export", lambda version, folder, rows: None)
    config = RunConfig.model_validate(
        {
            "name": "tiny",
            "export": {"files": files},
            "model": {"name": str(ROOT / "configs/models/tiny-vit.json")},
        }
    )
    data = DataVersion(
        folder=folder, version=folder.parent.name.ljust(32, "0"), is_tracked=False, file_md5={}
    )
    run = Run(config=config, data=data, lineage=lineage(), folder=state / "run", mlflow_run_id="")
    result = module.export.fn(run, VERSION)
    return result, result.files_written[0]


@pytest.mark.usefixtures("prefect_server")
class TestExport:
    def test_every_product_has_its_id_line_versions_and_unit_embeddings(
        self, folder: Path, weights: TrainedModel, monkeypatch: pytest.MonkeyPatch, state: Path
    ) -> None:
        result, path = export(folder, weights, monkeypatch, state, "test.tsv")
        table = pq.read_table(path)
        assert (result.lines, result.rows, result.faulty, len(table)) == (24, 24, 0, 24)
        side_table = (folder / "test.products.csv").read_text().splitlines()[1:]
        assert table["id"].to_pylist() == [row.split(",")[0] for row in side_table]
        assert table["line"].to_pylist() == list(range(1, 25))
        assert set(table["model_version"].to_pylist()) == {"shop/3"}
        assert set(table["data_version"].to_pylist()) == {folder.parent.name.ljust(32, "0")}
        width = load_towers(weights.folder, "cpu").embed_dim
        for column in ("text_embedding", "image_embedding"):
            assert table.schema.field(column).type.list_size == width
            embeddings = np.stack(table[column].to_numpy())
            assert embeddings.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)

    def test_a_faulty_line_is_counted_and_the_ids_of_the_others_stay_right(
        self, folder: Path, weights: TrainedModel, monkeypatch: pytest.MonkeyPatch, state: Path
    ) -> None:
        tsv = folder / "test.tsv"
        lines = tsv.read_bytes().splitlines(keepends=True)
        tsv.write_bytes(b"".join([lines[0], b"no picture\tnothing\n", *lines[2:]]))
        result, path = export(folder, weights, monkeypatch, state, "test.tsv")
        table = pq.read_table(path)
        assert (result.lines, result.rows, result.faulty) == (24, 23, 1)
        assert table["line"].to_pylist() == [1, *range(3, 25)]
        ids = [
            row.split(",")[0] for row in (folder / "test.products.csv").read_text().splitlines()[1:]
        ]
        assert table["id"].to_pylist() == [ids[0], *ids[2:]]

    @pytest.mark.parametrize(("field", "absent"), [(0, "image_embedding"), (1, "text_embedding")])
    def test_a_tsv_of_captions_or_of_images_alone_has_only_its_own_embedding(
        self,
        folder: Path,
        weights: TrainedModel,
        monkeypatch: pytest.MonkeyPatch,
        state: Path,
        field: int,
        absent: str,
    ) -> None:
        lines = (folder / "test.tsv").read_bytes().splitlines()
        (folder / "queries.tsv").write_bytes(
            b"".join(line.split(b"\t")[field] + b"\n" for line in lines)
        )
        result, path = export(folder, weights, monkeypatch, state, "queries.tsv")
        table = pq.read_table(path)
        assert result.rows == 24
        assert absent not in table.column_names
        assert table["id"].to_pylist()[:2] == ["queries-1", "queries-2"]

    def test_a_file_without_one_good_line_leaves_no_parquet(
        self, folder: Path, weights: TrainedModel, monkeypatch: pytest.MonkeyPatch, state: Path
    ) -> None:
        (folder / "bad.tsv").write_bytes(b"a\tb\nc\td\n")
        with pytest.raises(DataError, match="none of its 2 lines can be embedded"):
            export(folder, weights, monkeypatch, state, "bad.tsv")
        assert not list((state / "embeddings").rglob("bad*"))
