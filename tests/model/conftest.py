"""A tiny architecture and tiny pairs for the tests of the science; torch is not imported here."""

import pytest

from model.config.sections import ModelConfig
from tests.tiny import TinyData, write_data, write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """Return the config of an architecture that trains in a second."""
    return write_model(tmp_path_factory.mktemp("architecture"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Return 64 train and 32 valid pairs on disk; nobody writes to them."""
    return write_data(tmp_path_factory.mktemp("pairs"))
