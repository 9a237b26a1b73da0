"""A registered version as others load it: rows that lack something, odd values, foreign folders."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from model.config.load import RunConfig
from model.config.sections import DataConfig
from model.errors import CheckpointError, NoPortableForm
from model.pairs.profile import profile_files, write_profile
from model.towers.folder import load_towers
from tasks.registry import serving
from tasks.registry.served_model import EmbeddingModel
from tasks.registry.served_parts import Served, model_parts
from tasks.runtime.records import DataVersion, Run, TrainedModel, Validation
from tests.golden import jpeg
from tests.tasks.conftest import lineage

CONFIG = RunConfig(name="served")
# A caller's own modules have usual names, and no torch is there.
USE = """
import base64, json, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in ("torch", "open_clip", "transformers"), name
sys.meta_path.insert(0, NoTorch())
import model, tasks
import mlflow, pandas
loaded = mlflow.pyfunc.load_model(sys.argv[1])
image = base64.b64decode(sys.argv[2])
frame = pandas.DataFrame({"caption": ["red dress", None], "image": [None, image], "id": ["a", "b"]})
print(json.dumps(loaded.predict(frame).to_dict("list")))
print(json.dumps([list(loaded.predict(frame.head(0)).columns), model.MINE, tasks.MINE]))
"""


class Towers:
    """Stand-ins whose embeddings say what they were made of."""

    def embed_captions(self, captions: list[str]) -> np.ndarray:
        return np.array([[float(len(caption))] for caption in captions])

    def embed_images(self, images: list[bytes]) -> np.ndarray:
        for place, image in enumerate(images):
            if image == b"bad":
                raise ValueError(f"image {place}: no image")
        return np.array([[float(len(image))] for image in images])


def predict(frame: pd.DataFrame) -> pd.DataFrame:
    model = EmbeddingModel()
    model.towers = Towers()
    context: Any = SimpleNamespace(artifacts={})
    return model.predict(context, frame)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_what_a_row_lacks_is_none_in_that_row_alone(missing: object) -> None:
    frame = pd.DataFrame(
        {"caption": ["red", missing, "longer"], "image": [missing, b"xy", b"x"], "id": [7, 8, 9]},
        index=["c", "a", "b"],
        dtype=object,
    )
    embedded = predict(frame)
    assert embedded["text_embedding"].tolist() == [[3.0], None, [6.0]]
    assert embedded["image_embedding"].tolist() == [None, [2.0], [1.0]]
    assert embedded.index.tolist() == ["c", "a", "b"] and embedded["id"].tolist() == [7, 8, 9]


def test_an_empty_frame_gives_an_empty_frame_of_the_right_columns() -> None:
    frame = pd.DataFrame({"caption": ["red"], "image": [b"x"]})
    assert list(predict(frame.head(0)).columns) == ["text_embedding", "image_embedding"]
    assert predict(frame.head(0)).empty
    assert list(predict(frame[["caption"]].head(0)).columns) == ["text_embedding"]


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("image", "/data/a.jpg", "image in row 1: text, perhaps the path of a file; pass"),
        ("image", Path("a.jpg"), "image in row 1: the path of a file; pass the bytes"),
        ("image", base64.b64encode(jpeg()).decode(), "image in row 1: base64 text; pass"),
        ("image", base64.b64encode(jpeg()), "image in row 1: base64 in bytes; pass"),
        ("image", b"bad", "image in row 1: no image"),
        ("image", 5, "image in row 1: a int; pass the bytes"),
        ("caption", 5, "caption in row 1: a int, not text"),
        ("caption", b"red", "caption in row 1: a bytes, not text"),
        ("title", "red", "needs a column 'caption'"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_its_row(
    column: str, value: object, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        predict(pd.DataFrame({column: pd.Series([None, value], dtype=object)}))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tested(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Validation:
    """A validation that has profiled the test split."""
    folder = tmp_path_factory.mktemp("profiles")
    write_profile(miniature / "finetune/test.tsv", profile_files(folder, "test"), DataConfig())
    return Validation(profiles=folder, docs=folder, counts=[], expectations=1)


def run_in(folder: Path, miniature: Path, config: RunConfig, **serve: bool) -> Run:
    config = config.model_copy(update={"serve": config.serve.model_copy(update=serve)})
    data = DataVersion(folder=miniature, version="0" * 32, is_tracked=False, file_md5={})
    return Run(config=config, data=data, lineage=lineage("f"), folder=folder, mlflow_run_id="r")


@pytest.fixture(scope="module")
def made(
    tested: Validation,
    miniature: Path,
    weights: TrainedModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Served:
    run = run_in(tmp_path_factory.mktemp("run"), miniature, CONFIG)
    return serving.serve_model(run, tested, weights)


def test_a_version_loads_beside_modules_of_the_same_names_without_torch(
    made: Served, weights: TrainedModel, tmp_path: Path
) -> None:
    mlflow.pyfunc.save_model(tmp_path / "version", **model_parts(weights.folder, made.folder))
    caller = tmp_path / "caller"
    caller.mkdir()
    for name in ("model", "tasks"):
        (caller / f"{name}.py").write_text("MINE = True\n")
    (caller / "use.py").write_text(USE)

    image = base64.b64encode(jpeg()).decode()
    done = subprocess.run(
        [sys.executable, "use.py", str(tmp_path / "version"), image],
        cwd=caller,
        env={"PATH": "/usr/bin:/bin", "HOME": str(caller), "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, last = map(json.loads, done.stdout.splitlines()[-2:])
    assert [row is None for row in rows["text_embedding"]] == [False, True]
    assert [row is None for row in rows["image_embedding"]] == [True, False]
    assert rows["id"] == ["a", "b"]
    assert last == [["id", "text_embedding", "image_embedding"], True, True]


def test_a_served_form_of_other_weights_is_not_registered(
    made: Served, tested: Validation, miniature: Path, weights: TrainedModel, tmp_path: Path
) -> None:
    towers = load_towers(weights.folder, "cpu")
    for parameter in towers.clip.visual.parameters():
        parameter.data += 0.01
    assert made.folder is not None
    test = serving._test_index(run_in(tmp_path, miniature, CONFIG), tested)
    with pytest.raises(CheckpointError, match=r"image embeddings, by .* not registered"):
        serving.compare(towers, made.folder, test)


@pytest.mark.parametrize("allowed", [1.0, -1.0])
def test_eight_bits_serve_only_where_recall_stays(
    allowed: float,
    made: Served,
    tested: Validation,
    miniature: Path,
    weights: TrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "MOST_LOSS", allowed)
    run = run_in(tmp_path, miniature, CONFIG, int8_text=True)
    assert made.folder is not None
    exact = tmp_path / "register" / "served"
    shutil.copytree(made.folder, exact)
    test = serving._test_index(run, tested)
    folder, note = serving._try_int8(run, weights, exact, test)
    assert (folder.name == "served-int8") == (allowed > 0)
    assert ("refused" in note) == (allowed < 0)


def test_towers_without_a_portable_form_are_served_by_torch_and_say_why(
    tested: Validation,
    miniature: Path,
    weights: TrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(towers: object, folder: Path) -> None:
        raise NoPortableForm("the image tower cannot be exported to ONNX: too new")

    monkeypatch.setattr(serving, "write_served", refuse)
    served = serving.serve_model(run_in(tmp_path, miniature, CONFIG), tested, weights)
    assert served.folder is None
    assert served.note == "by torch, as the image tower cannot be exported to ONNX: too new"
    assert "code_paths" in model_parts(weights.folder, None)
