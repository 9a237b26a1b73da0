"""Train one recipe with one seed through the real loop, and keep what it ended with."""

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch.nn.functional import normalize

from model.batches.loading import PairInput, pair_input
from model.concepts.labels import make_vocabulary
from model.concepts.prototypes import FeatureQueue
from model.config.load import load_config
from model.config.sections import DataConfig, StageConfig
from model.embeddings.embed import embed_captions, embed_pairs
from model.errors import DataError
from model.evaluation.queries import keyword_queries
from model.evaluation.retrieval import evaluate_retrieval, relate
from model.evaluation.split import evaluate_split
from model.pairs.index import PairIndex, PairSource, carve_valid, index_pairs
from model.pairs.processes import usable_cores
from model.pairs.profile import profile_files, write_profile
from model.storage.files import atomic_write
from model.towers.create import create_towers
from model.towers.folder import load_towers
from model.towers.towers import Towers
from model.training import objective
from model.training.loop import train
from model.training.stage import Callbacks, Stage

CONFIG = "configs/fashion-products.yaml"
KEPT = Path("state/benchmarks/quality")
VALID_SHARE = 0.1


class Result(NamedTuple):
    """What a run ended with: mean recall on valid, on test and of test's keyword queries, 0 to 1, and its seconds."""

    valid: float
    test: float
    keyword: float
    seconds: float
    step_s: float


class Pairs:
    """The real pairs: train without what it shares with test, valid carved from it, and test."""

    def __init__(self, folder: Path) -> None:
        """Profile ``fashion-products`` of REAL_PAIRS in a folder.

        Raises:
            DataError: REAL_PAIRS names no folder.
        """
        root = os.environ.get("REAL_PAIRS")
        if not root:
            raise DataError(
                "REAL_PAIRS names no folder of real pairs; set it to one that holds fashion-products"
            )
        home = Path(root) / "fashion-products"
        train, test = (profiled(home / f"{name}.tsv", folder) for name in ("train", "test"))
        leaks = np.isin(train.caption_hash, test.caption_hash) | np.isin(
            train.image_hash, test.image_hash
        )
        kept, valid = carve_valid(train.take(np.flatnonzero(~leaks)), VALID_SHARE, 0)
        towers = create_towers(load_config(CONFIG).model, "cpu")
        self.train, self.valid, self.test = (
            pair_input(towers.input_spec, index) for index in (kept, valid, test)
        )
        self.related = relate(test.caption_hash.tolist(), test.image_hash.tolist())
        captions = [test.caption(row) for row in self.related.caption_row.tolist()]
        self.keywords = keyword_queries(
            captions, self.related, make_vocabulary(kept.captions(), StageConfig())
        )


def profiled(tsv: Path, folder: Path) -> PairIndex:
    """Profile a TSV in a folder and open it."""
    files = profile_files(folder, tsv.stem)
    write_profile(tsv, files, DataConfig(), processes=1)
    return index_pairs([PairSource(tsv, files.table)])


class LearnedConcepts(FeatureQueue):
    """A queue whose prototypes are learned embeddings: what concept terms are worth without prototypes."""

    def __init__(self, size: int, concepts: int, width: int) -> None:
        """Draw an embedding a concept; the queue goes on to tell the means and which concepts are known."""
        super().__init__(size, concepts, width)
        generator = torch.Generator().manual_seed(concepts)
        self.embeddings = torch.nn.Parameter(
            torch.randn(concepts, width, generator=generator) * width**-0.5
        )

    def prototypes(self) -> torch.Tensor:
        """Return the embeddings, L2-normalised [C, D]; gradients flow."""
        return normalize(self.embeddings, dim=1)


def result_of(pairs: Pairs, changes: dict[str, Any], seed: int, is_learned: bool) -> Result:
    """Return what the config's recipe with changes ends with, from an earlier run of this code or by training."""
    stage = load_config(CONFIG).finetune
    stage = StageConfig.model_validate(stage.model_dump() | changes)
    name = hashlib.sha256(
        json.dumps([stage.model_dump(mode="json"), seed, is_learned, _code()]).encode()
    ).hexdigest()
    path = KEPT / f"{name[:16]}.json"
    if path.is_file():
        return Result(**json.loads(path.read_bytes()))
    with patch.object(objective, "FeatureQueue", LearnedConcepts if is_learned else FeatureQueue):
        result = _train(pairs, stage, seed)
    KEPT.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(result._asdict()).encode())
    return result


def _code() -> str:
    """Return a hash of the code that decides a result."""
    digest = hashlib.sha256()
    for path in sorted(Path("model").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _train(pairs: Pairs, config: StageConfig, seed: int) -> Result:
    torch.set_num_threads(1 if usable_cores() <= 2 else usable_cores() // 2)
    towers = create_towers(load_config(CONFIG).model, "cpu", seed=seed)
    spent = 0.0

    def validate(towers: Towers) -> dict[str, float]:
        nonlocal spent
        start = time.process_time()
        metrics = metrics_on(towers, pairs.valid)
        spent += time.process_time() - start
        return metrics

    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        state = train(
            towers, Stage(config, pairs.train, validate, Path(folder), seed, workers=0), Callbacks()
        )
        seconds = time.process_time() - start - spent
        best = load_towers(Path(folder) / state.best_folder, "cpu")
        test, keyword = recalls_on_test(best, pairs)
        return Result(state.best_mean_recall, test, keyword, seconds, seconds / state.step)


def recalls_on_test(towers: Towers, pairs: Pairs) -> tuple[float, float]:
    """Return the mean recall of test's captions, and that of its keyword queries."""
    related, keywords = pairs.related, pairs.keywords
    text_ND, image_ND = embed_pairs(towers, pairs.test, 256, 0)
    text_QD, image_CD = text_ND[related.caption_row], image_ND[related.image_row]
    captions = evaluate_retrieval(text_QD, image_CD, related, 1024).metrics()
    typed = keywords.metrics(embed_captions(towers, list(keywords.texts)), image_CD, 1024)
    return captions["mean_recall"], typed["keyword_mean_recall"]


def metrics_on(towers: Towers, pairs: PairInput) -> dict[str, float]:
    """Return Rank@K and mean recall of towers on pairs."""
    return evaluate_split(towers, pairs, batch_size=256, block_rows=1024, workers=0).metrics()
