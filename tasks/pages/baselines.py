"""Metrics beside what no model at all reaches: a random order, always saying the largest label."""

from collections.abc import Mapping

BASELINE = "_baseline"  # ends the name of what a metric is held against


def under_baseline(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the metrics that are worse than no model at all, each with its baseline."""
    pairs = (
        (name.removesuffix(BASELINE), baseline)
        for name, baseline in metrics.items()
        if name.endswith(BASELINE)
    )
    return {
        name: (metrics[name], baseline)
        for name, baseline in pairs
        if name in metrics and metrics[name] < baseline
    }
