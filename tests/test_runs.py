"""The stories of runs/ can be typed: every command parses, and each script runs on a miniature of
its sources."""

import base64
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.arguments import parse_arguments
from flows.cli.commands import COMMANDS, GROUPS
from tasks.runtime.environment import ROOT
from tests.tiny import COLOURS, THINGS, drawn_jpeg, write_model

SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
NAMES = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
CHINESE_MODEL = "clip_chinese_roberta_base_vit_base"
ENGLISH_MODEL = "pai-clip-commercial-base-en"
# A stage that takes seconds, by the variables that change any knob.
SHRUNK = {
    "DATA__VALID_SHARE": "0.2",
    "EVALUATE__GALLERY_QUERIES": "2",
    "FINETUNE__BATCH_SIZE": "16",
    "FINETUNE__EPOCHS": "2",
    "FINETUNE__MICRO_BATCH_SIZE": "8",
    "FINETUNE__MIN_CONCEPT_COUNT": "2",
    "FINETUNE__WARMUP_STEPS": "1",
    "PRECISION": "fp32",
    "WORKERS": "0",
}


def test_there_is_a_script_for_each_story() -> None:
    assert {path.stem for path in SCRIPTS} == {
        "fashion-gen-base",
        "fashion-gen-large",
        "from-easynlp",
        "muge",
        "own-catalogue",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_command_of_a_script_is_one_that_the_command_line_takes(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    lines = re.findall(r"^flows (?!\()(.+)$", script.read_text(encoding="utf-8"), re.M)
    assert lines
    for line in lines:
        parse_arguments(shlex.split(line), COMMANDS, GROUPS)


def pairs(words: str, seed: int) -> list[tuple[str, bytes]]:
    return [(f"{name} in {words}", drawn_jpeg(name, seed)) for name in NAMES]


def write_catalogue(folder: Path) -> dict[str, str]:
    """A CSV a split beside its images, a product a row."""
    for split, words, seed in (("train", "silk", 1), ("test", "wool", 2)):
        rows = ["id,title,image,category,subcategory"]
        for number, (caption, image) in enumerate(pairs(words, seed)):
            name = f"{split}-{number}.jpg"
            (folder / name).write_bytes(image)
            rows.append(f"{split}{number},{caption},{name},clothes,{caption.split()[1]}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"CATALOGUE": str(folder)}


def write_fashion_gen(folder: Path) -> dict[str, str]:
    """Both HDF5 files, a pose a product."""
    from tests.model.importers.test_fashion_gen import column, write_h5

    for split, words, seed in (("train", "silk", 1), ("validation", "wool", 500)):
        texts = column(*(f"{name.capitalize()} in {words}." for name in NAMES))
        drawn = [
            np.asarray(Image.open(io.BytesIO(drawn_jpeg(name, seed, side=32)))) for name in NAMES
        ]
        fields = ("input_name", "input_category", "input_subcategory", "input_brand")
        write_h5(
            folder / f"fashiongen_256_256_{split}.h5",
            np.stack(drawn),
            index=np.arange(len(NAMES))[:, None],
            input_description=texts,
            input_productID=seed + np.arange(len(NAMES))[:, None],
            input_msrpUSD=None,
            **dict.fromkeys(fields, texts),
        )
    return {"FASHION_GEN": str(folder)}


def write_muge(folder: Path) -> dict[str, str]:
    """MUGE's own files, and a tiny model as EasyNLP publishes its Chinese ones."""
    from model.towers.create import create_towers
    from model.zoo.forms import easynlp_chinese
    from tests.chinese import write_chinese_model
    from tests.flows.test_muge import write_muge as write_release

    write_release(folder / "muge")
    weights = folder / CHINESE_MODEL
    weights.mkdir()
    easynlp_chinese.write(create_towers(write_chinese_model(folder), "cpu"), weights)
    length = {"COMMERCE_CLIP__MODEL__CONTEXT_LENGTH": "12"}
    return {"MUGE": str(folder / "muge"), "WEIGHTS": str(weights)} | length


def write_easynlp(folder: Path) -> dict[str, str]:
    """The two tables that EasyNLP's script reads, and a tiny model as EasyNLP publishes its English
    ones."""
    from tests.published import clip_architecture, write_open_clip
    from tests.published import write_easynlp as publish

    tables = {"TRAIN": pairs("silk", 1), "TEST": pairs("wool", 2)}
    for name, lines in tables.items():
        text = "".join(
            f"{caption}\t{base64.b64encode(image).decode()}\n" for caption, image in lines
        )
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    architecture = clip_architecture(quick_gelu=True)
    publish(folder / ENGLISH_MODEL, write_open_clip(folder / "source", architecture), architecture)
    return {name: str(folder / f"{name}.tsv") for name in tables} | {
        "WEIGHTS": str(folder / ENGLISH_MODEL)
    }


STORIES: dict[str, Callable[[Path], dict[str, str]]] = {
    "own-catalogue": write_catalogue,
    "fashion-gen-base": write_fashion_gen,
    "fashion-gen-large": write_fashion_gen,
    "muge": write_muge,
    "from-easynlp": write_easynlp,
}


@pytest.mark.integration
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("story", STORIES)
def test_a_script_runs_from_its_sources_to_the_end(story: str, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    own = STORIES[story](sources)
    own |= {f"COMMERCE_CLIP__{knob}": value for knob, value in SHRUNK.items()}
    own |= {"COMMERCE_CLIP_STATE": str(tmp_path / "state"), "HOME": str(tmp_path / "home")}
    # Rates for published weights move a tiny model nowhere, and no champion comes of it.
    if story != "own-catalogue":
        stage = {"EPOCHS": "12", "LR": "3e-3", "DISTILL_WEIGHT": "0", "LAYER_DECAY": "1.0"}
        own |= {f"COMMERCE_CLIP__FINETUNE__{knob}": value for knob, value in stage.items()}
    if story not in ("muge", "from-easynlp"):
        architecture = write_model(tmp_path).name
        own |= {"COMMERCE_CLIP__MODEL__NAME": architecture}
        own |= {"COMMERCE_CLIP__MODEL__PRETRAINED": "null"}
    out = tmp_path / "out"
    done = subprocess.run(
        ["bash", ROOT / "runs" / f"{story}.sh"],
        cwd=tmp_path,
        env=os.environ | own | {"OUT": str(out), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "version 1: Rank@K on test" in done.stdout
