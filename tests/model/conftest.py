"""Tiny towers and pairs for the tests of the science."""

from collections.abc import Iterator

import pytest
import torch

from model.config.sections import ModelConfig
from model.towers.create import create_towers
from model.towers.towers import Towers
from tests.tiny import TinyData, write_data, write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """Return the config of an architecture that trains in a second."""
    return write_model(tmp_path_factory.mktemp("architecture"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Return 64 train and 32 valid pairs on disk; nobody writes to them."""
    return write_data(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def towers(tiny_model: ModelConfig) -> Towers:
    """Return fresh tiny towers of seed 0 on the CPU."""
    return create_towers(tiny_model, device="cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread, so that the suite shares its machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
