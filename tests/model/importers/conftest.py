"""What every importer's output must satisfy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model.config.sections import DataConfig
from model.importers.importing import ImportedSplit
from model.pairs.profile import profile_files, write_profile
from model.pairs.splits import read_side_table
from model.pairs.tsv import Pair, parse_line

Accepted = tuple[list[Pair], dict[str, list[str]]]


@pytest.fixture
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ImportedSplit], Accepted]:
    """Return the pairs and the side table of an import, after checking that all is accepted."""
    profiles: Path = tmp_path_factory.mktemp("profiles")

    def read(split: ImportedSplit) -> Accepted:
        assert split.tsv is not None
        data = split.tsv.read_bytes()
        assert data.endswith(b"\n")
        pairs = [
            pair for line in data[:-1].split(b"\n") if isinstance(pair := parse_line(line), Pair)
        ]
        summary = write_profile(
            split.tsv, profile_files(profiles, split.split), DataConfig(), processes=1
        )
        assert summary.accepted == summary.lines == len(pairs) == split.pairs
        table = read_side_table(split.tsv, required=True, lines=split.pairs)
        assert table is not None
        return pairs, table.to_pydict()

    return read
