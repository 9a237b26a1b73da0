"""The pairs of a split as the towers take them, by caches beside the data version's reports."""

from contextlib import ExitStack

from model.batches.decoded import decoded_layout
from model.batches.loading import PairInput, pair_input
from model.pairs.index import PairIndex
from model.towers.towers import Towers
from tasks.runtime.log import run_logger
from tasks.runtime.progress import Progress, progress
from tasks.runtime.records import Run, Validation
from tasks.validation.accepted import split_index


def split_input(
    run: Run, validation: Validation, name: str, towers: Towers, crops_centre: bool
) -> PairInput:
    """Return a split as the towers take it.

    Decoded images are cached only where the stage crops nothing but centres (``crops_centre``).

    Raises:
        DataError: the split has no accepted pair, or a file is not the one that was profiled.
        CheckpointError: the disk has no room for the caches.
    """
    return index_input(
        run, validation, name, split_index(run, validation, name), towers, crops_centre
    )


def index_input(
    run: Run,
    validation: Validation,
    name: str,
    index: PairIndex,
    towers: Towers,
    crops_centre: bool = True,
) -> PairInput:
    """Return an index of `split_index` as the towers take it; what must be made shows a bar."""
    is_decoded = run.config.decoded_cache and crops_centre
    folder = validation.profiles / "cache"
    if is_decoded:
        run_logger().info(
            "%s: decoded images take %.1f MB in %s",
            name,
            decoded_layout(index, towers.image_size).bytes / 1e6,
            folder,
        )

    with ExitStack() as bars:
        shown: dict[str, Progress] = {}

        def on_rows(what: str, rows: int) -> None:
            if what not in shown:
                shown[what] = bars.enter_context(progress(f"{what} of {name}", len(index), "pairs"))
            shown[what].advance(rows)

        return pair_input(towers.input_spec, index, folder, is_decoded, run.config.workers, on_rows)
