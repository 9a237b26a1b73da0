"""What is given as a parameter reaches the config as it was given."""

import pytest

from flows.settings import read_config


@pytest.mark.parametrize(
    "path",
    [
        "/pairs/" + "Herbst 2026 (neu) " * 9 + "end",  # longer than YAML would keep in a line
        "/pairs/it's 'quoted': #1",
        "/pairs/新款 – été",
    ],
)
def test_a_folder_of_any_name_is_the_data_s_path(path: str) -> None:
    assert read_config("sample", data=path).data.path == path
