"""The pairs of a split as the towers take them, by caches beside the data version's reports."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from model.batches.decoded import decoded_layout
from model.batches.loading import PairInput, pair_input
from model.embeddings.features import Locked, features_layout, lock_input
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
    folder = _cache_folder(validation)
    if is_decoded:
        run_logger().info(
            "%s: decoded images take %.1f MB in %s",
            name,
            decoded_layout(index, towers.image_size).bytes / 1e6,
            folder,
        )

    with _bars(name, len(index)) as on_rows:
        return pair_input(towers.input_spec, index, folder, is_decoded, run.config.workers, on_rows)


def locked_input(
    run: Run, validation: Validation, name: str, towers: Towers, pairs: PairInput, locked: Locked
) -> PairInput:
    """Return a split with the features of towers that a stage locks, computed where need be.

    Raises:
        DataError: a line cannot be decoded any more.
        CheckpointError: the disk has no room for the caches.
    """
    folder = _cache_folder(validation)
    for tower in locked.towers():
        run_logger().info(
            "%s: the %s tower is locked; its features take %.1f MB in %s%s",
            name,
            tower,
            features_layout(towers, pairs, tower).bytes / 1e6,
            folder,
            ", its images are not augmented" if tower == "image" else "",
        )
    with _bars(name, len(pairs)) as on_rows:
        return lock_input(towers, pairs, locked, folder, run.config.workers, on_rows)


def _cache_folder(validation: Validation) -> Path:
    return validation.profiles / "cache"


@contextmanager
def _bars(name: str, pairs: int) -> Iterator[Callable[[str, int], None]]:
    """Yield what counts the rows that are made of a split, by a bar for each kind."""
    with ExitStack() as bars:
        shown: dict[str, Progress] = {}

        def on_rows(what: str, rows: int) -> None:
            if what not in shown:
                shown[what] = bars.enter_context(progress(f"{what} of {name}", pairs, "pairs"))
            shown[what].advance(rows)

        yield on_rows
