"""Embedding a TSV against the obvious loop over open_clip, and importing a large model against
reading and hashing it.

Usage: REAL_PAIRS=<folder> python benchmarks/embed.py [--only embed import] [--rows 64] [--rounds 3]

The loop is what anyone writes: open_clip's transform in a DataLoader, its encoders in fp32; both
ways run in one process on one core, told by processor seconds. An import is told by the clock,
beside reading and hashing the same file and beside copying it, each in a process of its own that
loads the same libraries and drops the file from memory right before the clock starts: a virtual
machine hands freed pages back to its host within seconds, and whoever wants pages later pays for
that. Takes 8 minutes, 4 GB of memory and 6 GB of the disk.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from benchmarks.support.measure import core_seconds, print_bar, print_rates, times_faster
from benchmarks.support.peers import open_clip_input
from benchmarks.support.pictures import captioned_pictures, lines_of
from model.batches.loading import pair_input
from model.config.sections import DataConfig, ModelConfig
from model.embeddings.embed import embed_products
from model.pairs.index import PairSource, index_pairs
from model.pairs.profile import profile_files, write_profile
from model.towers.create import create_towers
from model.towers.towers import Towers

BATCH, SIDE = 64, 256
OURS, OPEN_CLIP = "commerce-clip", "open_clip loop"
START = """
import hashlib, os, shutil, sys, time
from pathlib import Path
from model.zoo.published import Told
from model.zoo.importing import import_model
path, *out = map(Path, sys.argv[1:])
with open(path, "rb") as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
start = time.perf_counter()
"""
IMPORT = """
import_model(path, *out, Told("ViT-L-14", "gelu"))
"""
COPY = """
with open(path, "rb") as source, open(*out, "wb") as file:
    shutil.copyfileobj(source, file, 1 << 24)
    os.fsync(file.fileno())
"""
HASH = """
with open(path, "rb") as file:
    hashlib.file_digest(file, "sha256")
"""
# The kernel's VmHWM is of this process alone; getrusage would count what the process that started
# it had.
END = """
took = time.perf_counter() - start
print(took, Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


class Lines(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Lines of a TSV as open_clip takes them: transformed pixels and token ids."""

    def __init__(self, tsv: Path) -> None:
        """Read the lines."""
        self._lines = tsv.read_bytes().splitlines()
        self._tokenizer = open_clip.get_tokenizer("ViT-B-32")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        line = self._lines[row]
        return open_clip_input(line), self._tokenizer([line.split(b"\t")[0].decode()])[0]


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=("embed", "import"), default=["embed", "import"]
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if "embed" in options.only:
            bench_embed(Path(folder), options.rows, options.rounds)
        if "import" in options.only:
            bench_import(Path(folder), options.rounds)


def bench_embed(folder: Path, rows: int, rounds: int) -> None:
    """Embed the pairs of a TSV both ways."""
    tsv = folder / "pairs.tsv"
    tsv.write_bytes(b"".join(line + b"\n" for line in lines_of(captioned_pictures(rows), SIDE)))
    towers = create_towers(ModelConfig(name="ViT-B-32"), "cpu")
    towers.clip.eval()
    found = dict[str, tuple[torch.Tensor, torch.Tensor]]()
    ways: dict[str, Callable[[], object]] = {
        OURS: lambda: found.update({OURS: ours(towers, tsv)}),
        OPEN_CLIP: lambda: found.update({OPEN_CLIP: theirs(towers.clip, tsv)}),
    }
    seconds = core_seconds(ways, rounds)
    print_rates(f"pairs of {SIDE} px to embeddings, ViT-B-32, fp32", rows, seconds)
    print_bar("embed_over_open_clip_loop", times_faster(seconds, OURS, OPEN_CLIP), ">=", 1.5)
    # The loop's pixels are Pillow's, up to 2 levels of 255 from ours, so exactness is told of the
    # same pixels.
    same = theirs_of_our_pixels(towers, tsv)
    print_bar("embed_fp32_difference", max_difference(found[OURS], same), "<=", 1e-5)
    half = ours(Towers(towers.clip, towers.tokenizer, towers.config, towers.device, "bf16"), tsv)
    cosines = [(a * b).sum(dim=1).min().item() for a, b in zip(half, found[OURS], strict=True)]
    print_bar("embed_bf16_cosine_distance", 1 - min(cosines), "<=", 1e-3)
    images = 1 - (found[OURS][1] * found[OPEN_CLIP][1]).sum(dim=1).min().item()
    print(
        f"largest cosine distance of images from the loop's, whose pixels are Pillow's: {images:.1e}"
    )


@torch.inference_mode()
def ours(towers: Towers, tsv: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return text and image embeddings as export makes them."""
    files = profile_files(tsv.parent, tsv.stem)
    write_profile(tsv, files, DataConfig(), processes=1)
    pairs = pair_input(towers.input_spec, index_pairs([PairSource(tsv, files.table)]))
    batches = list(embed_products(towers, pairs, BATCH, workers=0))
    texts, images = zip(*((batch.texts, batch.images) for batch in batches), strict=True)
    return torch.cat(texts), torch.cat(images)


@torch.inference_mode()
def theirs(clip: torch.nn.Module, tsv: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return text and image embeddings by the obvious loop."""
    texts, images = list[torch.Tensor](), list[torch.Tensor]()
    for pixels, ids in DataLoader(Lines(tsv), batch_size=BATCH):
        images.append(clip.encode_image(pixels, normalize=True))
        texts.append(clip.encode_text(ids, normalize=True))
    return torch.cat(texts), torch.cat(images)


@torch.inference_mode()
def theirs_of_our_pixels(towers: Towers, tsv: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what open_clip's encoders make of the pixels and tokens that ours get."""
    from benchmarks.support.peers import our_normalised_input

    lines = tsv.read_bytes().splitlines()
    images = towers.clip.encode_image(
        torch.stack([our_normalised_input(line) for line in lines]), normalize=True
    )
    ids = towers.tokenizer([line.split(b"\t")[0].decode() for line in lines])
    return towers.clip.encode_text(ids, normalize=True), images


def max_difference(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> float:
    """Return the largest absolute difference."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def bench_import(folder: Path, rounds: int) -> None:
    """Import a file of ViT-L-14's size, and read and hash it, in turns."""
    weights = {
        name: value.contiguous()
        for name, value in open_clip.create_model("ViT-L-14").state_dict().items()
    }
    for suffix, write in {"safetensors": save_file, "pt": torch.save}.items():
        path = folder / f"large.{suffix}"
        write(weights, path)
        os.sync()
        print(f"{path.name}, {path.stat().st_size / 1e9:.2f} GB")
        _bars(path, rounds, suffix)
        path.unlink()


def _bars(path: Path, rounds: int, name: str) -> None:
    ratios, memory = list[float](), 0.0
    for _ in range(rounds):
        hashed, _ = _run(HASH, path)
        took, peak = _run(IMPORT, path, path.with_name("imported"))
        shutil.rmtree(path.with_name("imported"))
        copied, _ = _run(COPY, path, path.with_name("copy"))
        path.with_name("copy").unlink()
        ratios.append(took / hashed)
        memory = max(memory, peak / path.stat().st_size)
        print(
            f"  read and hashed in {hashed:.2f} s, imported in {took:.2f} s, copied in {copied:.2f} s",
            flush=True,
        )
    print_bar(f"import_{name}_over_hashing", statistics.median(ratios), "<=", 1.5)
    print_bar(f"import_{name}_memory_over_size", memory, "<=", 1.3)


def _run(code: str, *paths: Path) -> tuple[float, float]:
    """Run code in a process of its own and return its seconds and its peak memory in bytes."""
    command = [sys.executable, "-c", START + code + END, *map(str, paths)]
    seconds, kilobytes = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()[-2:]
    return float(seconds), float(kilobytes) * 1024


if __name__ == "__main__":
    main()
