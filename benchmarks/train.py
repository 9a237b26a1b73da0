"""A training step: against open_clip's, against the machine's own peak, and what concepts and long
batches cost.

Usage: REAL_PAIRS=<folder> python benchmarks/train.py [--only fp32 bf16 concepts caching saving gpu]

Takes about 15 minutes on two cores. Steps are timed on one core by its processor seconds, ours and
the peer's in turns. Where a CPU has no bf16 products of its own, torch emulates them, and the bf16
column is a small batch.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.support.caching import caching_cost
from benchmarks.support.measure import Seconds, core_seconds, parts_parser, print_bar, times_faster
from benchmarks.support.pictures import captioned_pictures, lines_of, real_split, write_tsv
from benchmarks.support.saving import measure_saving
from benchmarks.support.steps import (
    Step,
    make_towers,
    open_clip_step,
    our_step,
    ready_batch,
    step_flops,
    text_groups,
)
from model.batches.loading import pair_input
from model.config.load import load_config
from model.config.sections import DataConfig, StageConfig
from model.pairs.index import PairSource, index_pairs
from model.pairs.profile import profile_files, write_profile
from model.towers.create import create_towers

MODEL, BATCH, ROUNDS = "ViT-B-32", 32, 2
EMULATED_BATCH, EMULATED_ROUNDS = (
    2,
    1,
)  # a step of emulated bf16 takes a minute at this size already
CONFIG = "configs/fashion-products.yaml"
OURS, OPEN_CLIP = "commerce-clip", "open_clip_train"
PLAIN = StageConfig(lr=1e-5, warmup_steps=0)
CONCEPTS = PLAIN.model_copy(update={"concept_weight": 1.0, "nearest_weight": 0.2})
CACHED_MODEL, CACHED_BATCH, MICRO_BATCH = "configs/models/small-vit.json", 2048, 128
# Dense bf16 peaks of the data sheets, FLOP/s.
GPU_PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
    "A10": 125e12,
}
GPU_MODELS = {"ViT-B-32": (1024, 0.45), "ViT-L-14": (192, 0.50)}
GPU_STEPS = 20


def main() -> None:
    """Run the parts that were asked for, all by default."""
    parts: dict[str, Callable[[], None]] = {
        "fp32": bench_fp32,
        "bf16": bench_bf16,
        "concepts": bench_concepts,
        "caching": bench_caching,
        "saving": bench_saving,
        "gpu": bench_gpu,
    }
    options = parts_parser(__doc__, parts).parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        parts[name]()


def bench_fp32() -> None:
    """Step in float32, open_clip's default on a CPU."""
    seconds, share = _steps("fp32", BATCH, ROUNDS)
    print_bar("train_fp32_over_open_clip", times_faster(seconds, OURS, OPEN_CLIP), ">=", 1.8)
    print_bar("train_share_of_fp32_peak", share, ">=", 0.65)


def bench_bf16() -> None:
    """Step in bf16 autocast on both sides."""
    is_emulated = _peak(torch.bfloat16) < _peak(torch.float32)
    if is_emulated:
        print(
            "\nthis CPU has no bf16 products: torch emulates them, slower than float32's; use precision fp32 on it"
        )
    batch, rounds = (EMULATED_BATCH, EMULATED_ROUNDS) if is_emulated else (BATCH, ROUNDS)
    seconds, share = _steps("bf16", batch, rounds)
    print_bar("train_bf16_over_open_clip", times_faster(seconds, OURS, OPEN_CLIP), ">=", 1.05)
    print_bar("train_share_of_bf16_peak", share, ">=", 0.65)


def _steps(precision: str, batch: int, rounds: int) -> tuple[Seconds, float]:
    """Time both steps and print them; return the seconds and the share of the machine's peak that ours reaches."""
    towers = make_towers(MODEL, precision)
    ready = ready_batch(towers, batch)
    groups = text_groups(towers, ready.batch.tokens)
    ways: dict[str, Step] = {
        OURS: our_step(towers, ready, PLAIN),
        OPEN_CLIP: open_clip_step(towers, ready, PLAIN),
    }
    peaks = [_peak(getattr(torch, kind)) for kind in ("float32", "bfloat16")]
    seconds = core_seconds(ways, rounds)
    _print_rates(f"training steps of {MODEL}, batch {batch}, {precision}", batch, seconds)
    flops = step_flops(towers, batch, groups)
    rate = flops / statistics.median(seconds[OURS])
    lengths = ", ".join(str(group.shape[1]) for group in groups)
    print(
        f"captions cut to {lengths} of {ready.batch.tokens.shape[1]} tokens; {flops / batch / 1e9:.1f} GFLOP a pair"
    )
    print(
        f"{rate / 1e9:.1f} GFLOP/s; products alone: fp32 {peaks[0] / 1e9:.1f}, bf16 {peaks[1] / 1e9:.1f} GFLOP/s a core"
    )
    return seconds, rate / peaks[precision == "bf16"]


def _print_rates(title: str, batch: int, seconds: Seconds) -> None:
    print(f"\n{title}, rounds in turns: {len(next(iter(seconds.values())))}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:>34} {median:7.2f} s a step, {batch / median:6.2f} pairs/s a core")


def _peak(dtype: torch.dtype) -> float:
    """Return the FLOP/s of a core in the largest product of the model's blocks, the best of five."""
    tokens, width, hidden = (1600, 768, 3072) if dtype == torch.float32 else (200, 768, 3072)
    x, weight = torch.randn(tokens, width).to(dtype), torch.randn(hidden, width).to(dtype)
    taken = core_seconds({"product": lambda: torch.nn.functional.linear(x, weight)}, rounds=5)[
        "product"
    ]
    return 2 * tokens * width * hidden / min(taken)


def bench_concepts() -> None:
    """Step with and without the concept and nearest-neighbour terms, prototypes and queue included."""
    towers = make_towers(MODEL, "fp32")
    ready = ready_batch(towers, BATCH)
    ways = {
        "with concepts": our_step(towers, ready, CONCEPTS),
        "InfoNCE alone": our_step(towers, ready, PLAIN),
    }
    seconds = core_seconds(ways, ROUNDS)
    _print_rates(f"terms of the loss at {MODEL}, batch {BATCH}, fp32", BATCH, seconds)
    print_bar(
        "train_concepts_over_info_nce",
        1 / times_faster(seconds, "with concepts", "InfoNCE alone"),
        "<=",
        1.05,
    )


def bench_caching() -> None:
    """Step on a batch beyond memory."""
    cost = caching_cost(CACHED_BATCH, MICRO_BATCH, CACHED_MODEL, rounds=2)
    print(
        f"\ngradient caching, {CACHED_MODEL}, batch {CACHED_BATCH:,} by {MICRO_BATCH}, a process each, two rounds"
    )
    for name, steps in (("whole batch", cost.plain), ("by micro-batches", cost.cached)):
        step = steps[-1]
        print(
            f"{name:>34} {step.seconds:6.1f} s {step.peak_bytes / 1e9:6.2f} GB, {step.resting_bytes / 1e9:.2f} at rest"
        )
    print_bar("train_caching_time", cost.times_seconds(), "<=", 1.4)
    print_bar("train_caching_peak", cost.times_peak(), "<=", 0.2)


def bench_saving() -> None:
    """Train an epoch of the real pairs' config, or as many drawn pairs, and time what is saved."""
    config = load_config(CONFIG)
    with TemporaryDirectory() as folder:
        files = profile_files(Path(folder), "train")
        tsv = real_split("train") or write_tsv(
            Path(folder) / "train.tsv", lines_of(captioned_pictures(200), 224), 6_000
        )
        write_profile(tsv, files, DataConfig(), processes=1)
        pairs = pair_input(
            create_towers(config.model, config.device).input_spec,
            index_pairs([PairSource(tsv, files.table)]),
        )
        saving = measure_saving(config, pairs)
    print(
        f"\nan epoch of {CONFIG}: {saving.total_s:.0f} s, {saving.saves} saves in {saving.saving_s:.2f} s"
    )
    print_bar("train_saving_share", saving.share, "<=", 0.02)


def bench_gpu() -> None:
    """Step in bf16, compiled, on a GPU, where there is one."""
    if not torch.cuda.is_available():
        print("\nno GPU: its bars are left out")
        return
    name = torch.cuda.get_device_name()
    peak = next((flops for kind, flops in GPU_PEAKS.items() if kind in name), None)
    if peak is None:
        print(f"\n{name}: its bf16 peak is not in the table; its bars are left out")
        return
    for model, (batch, target) in GPU_MODELS.items():
        towers = make_towers(model, "bf16", "cuda", is_compiled=True)
        ready = ready_batch(towers, batch)
        step = our_step(towers, ready, PLAIN)
        seconds = _gpu_seconds(step)
        flops = step_flops(towers, batch, text_groups(towers, ready.batch.tokens))
        memory = torch.cuda.max_memory_allocated() / 1e9
        print(
            f"\n{name}, {model}, batch {batch}, bf16, compiled: {batch / seconds:,.0f} pairs/s, {memory:.1f} GB"
        )
        print_bar(f"train_mfu_{model.lower()}", flops / seconds / peak, ">=", target)


def _gpu_seconds(step: Step) -> float:
    """Return the seconds of a step, the median of three times twenty, after five that compile."""
    taken = []
    for steps in (5, GPU_STEPS, GPU_STEPS, GPU_STEPS):
        torch.cuda.synchronize()
        start = time.monotonic()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        taken.append((time.monotonic() - start) / steps)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
