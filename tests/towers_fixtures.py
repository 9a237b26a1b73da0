"""What the tests of the wings above torch share; only their conftest files import it."""

from collections.abc import Iterator

import pytest
import torch

from model.config.sections import ModelConfig
from model.towers.create import create_towers
from model.towers.towers import Towers

__all__ = ["one_thread", "towers"]


@pytest.fixture
def towers(tiny_model: ModelConfig) -> Towers:
    """Return fresh tiny towers of seed 0 on the CPU."""
    return create_towers(tiny_model, device="cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread, so that the suite shares its machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
