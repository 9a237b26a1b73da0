"""The served model against the torch towers that it is made of: titles, images, loading.

Usage: python benchmarks/serve.py [--only rates load] [--towers ViT-B-32] [--rounds 5]

Rates are those of ViT-B-32 with random weights, in one process on one thread, the ways in turns,
in processor seconds: a title at a time, and encoded images of 224 pixels. Loading is what a fresh
process takes for `mlflow.pyfunc.load_model` of the sample's towers, served and by torch. Takes 4
minutes and 3 GB of memory.
"""

import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import torch
from PIL import Image

from benchmarks.support.measure import (
    ROUNDS,
    core_seconds,
    parts_parser,
    print_bar,
    print_rates,
    times_faster,
)
from model.config.sections import ModelConfig
from model.embeddings import served
from model.embeddings.embed import embed_captions, embed_encoded_images
from model.embeddings.served import EMBEDDER_FILE, TEXT_MODEL, ServedTowers
from model.embeddings.serving import write_served
from model.storage.sealed import MANIFEST, sealed_folder
from model.towers.create import create_towers
from model.towers.folder import save_towers
from model.towers.onnx_export import quantise_text
from model.towers.towers import Towers
from tasks.registry.served_parts import model_parts
from tasks.runtime.environment import ROOT

PARTS = ("rates", "load")
TINY = str(ROOT / "configs/models/tiny-vit.json")
TITLES = [
    "long sleeve striped top in navy",
    "women's running shoes, size 39",
    "leather belt",
    "floral summer dress with short sleeves and pockets",
]
IMAGES, SIDE = 16, 224
FEATURES = ("avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "avx2")
LOAD = "import mlflow, sys; mlflow.pyfunc.load_model(sys.argv[1])"


def main() -> None:
    """Print the tables and the bars."""
    parser = parts_parser(__doc__, PARTS)
    parser.add_argument("--towers", default="ViT-B-32", help="towers whose rates are measured")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_processor()

    with tempfile.TemporaryDirectory() as temporary:
        if "rates" in arguments.only:
            bench_rates(Path(temporary) / "rates", arguments.towers, arguments.rounds)
        if "load" in arguments.only:
            bench_load(Path(temporary) / "load", min(3, arguments.rounds))


def print_processor() -> None:
    """Print what decides how fast 8 bits are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {line.split(":")[0].strip(): line.split(":")[-1].strip() for line in lines if line}
    flags = facts.get("flags", "").split()
    named = ", ".join(f"{name} {'yes' if name in flags else 'no'}" for name in FEATURES)
    print(f"{facts.get('model name', 'unknown processor')}: {named}")
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, one thread")


def write_both(folder: Path, name: str) -> tuple[Towers, Path, Path]:
    """Make towers, their model folder and their served folder."""
    towers = create_towers(ModelConfig(name=name), "cpu")
    save_towers(towers, folder / "model")
    with sealed_folder(folder / "served") as temporary:
        write_served(towers, temporary)
        shutil.copyfile(str(served.__file__), temporary / EMBEDDER_FILE)
    return towers, folder / "model", folder / "served"


def bench_rates(folder: Path, name: str, rounds: int) -> None:
    """Measure titles one at a time and images, by torch, ONNX and 8 bits."""
    towers, _, exact = write_both(folder, name)
    with sealed_folder(folder / "int8") as small:
        for path in exact.iterdir():
            if not path.name.startswith(TEXT_MODEL) and path.name != MANIFEST:
                os.link(path, small / path.name)
        quantise_text(exact / TEXT_MODEL, small / TEXT_MODEL)
    onnx, int8 = ServedTowers(exact, threads=1), ServedTowers(folder / "int8", threads=1)

    def one_at_a_time(embed: Callable[[list[str]], object]) -> Callable[[], None]:
        return lambda: [embed([title]) for title in TITLES * 4] and None

    titles = core_seconds(
        {
            "torch": one_at_a_time(lambda captions: embed_captions(towers, captions)),
            "ONNX": one_at_a_time(onnx.embed_captions),
            "ONNX, 8 bits": one_at_a_time(int8.embed_captions),
        },
        rounds,
    )
    print_rates(f"{name}: a title at a time", 4 * len(TITLES), titles)
    print_bar("serve_title_onnx_over_torch", times_faster(titles, "ONNX", "torch"), ">=", 2.0)
    print_bar(
        "serve_title_int8_over_torch", times_faster(titles, "ONNX, 8 bits", "torch"), ">=", 5.0
    )

    encoded = drawn_jpegs()
    images = core_seconds(
        {
            "torch": lambda: embed_encoded_images(towers, encoded, served.IMAGES_AT_ONCE),
            "ONNX": lambda: onnx.embed_images(encoded),
        },
        rounds,
    )
    print_rates(f"{name}: encoded images", len(encoded), images)
    print_bar("serve_images_onnx_over_torch", times_faster(images, "ONNX", "torch"), ">=", 1.0)


def drawn_jpegs() -> list[bytes]:
    """Draw smooth images with some noise."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((SIDE + 32, SIDE)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def bench_load(folder: Path, rounds: int) -> None:
    """Measure a fresh process that loads the sample's towers, served and by torch."""
    _, model, made = write_both(folder, TINY)
    versions = {"by torch": None, "served": made}
    for name, path in versions.items():
        mlflow.pyfunc.save_model(folder / "versions" / name, **model_parts(model, path))

    seconds = {name: list[float]() for name in versions}
    for _ in range(rounds + 1):
        for name, taken in seconds.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            version = str(folder / "versions" / name)
            subprocess.run([sys.executable, "-c", LOAD, version], check=True, cwd=folder)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    # The first round reads the libraries into the page cache.
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    print(f"\nloading in a fresh process, {rounds} rounds in turns")
    for name, median in medians.items():
        print(f"{name:>34} {median:9.2f} s of a core")
    print_bar("serve_load_over_torch", medians["served"] / medians["by torch"], "<=", 0.35)


if __name__ == "__main__":
    main()
