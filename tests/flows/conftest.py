from collections.abc import Iterator

import pytest

from tasks.registry import serving
from tests.tasks.shop import serve_by_torch


@pytest.fixture(scope="module", autouse=True)
def served_by_torch() -> Iterator[None]:
    """Leave out the exports at registration, 9 s of a core each; tests/integration has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "serve_model", serve_by_torch)
        yield
