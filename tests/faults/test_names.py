"""200 hostile names: none becomes a path, none gets as far as the registry, nothing is written
anywhere."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from flows.parameters import RegisteredModel
from model.config.load import load_config
from model.errors import ConfigError, DataError
from tasks.ingest.staging import require_name

pytestmark = pytest.mark.faults(kind="X2: names")

WHOLE = (
    "..", "../x", "a/../../x", "a..b", "..a", "a..", "/etc/passwd", "/", "//", "~", "~root/x",
    "./x", "x/", "a/b", "a\\b", "..\\x", "C:\\x", "c:x", "\\\\host\\share", "file:///etc",
    "http://169.254.169.254/x", "", " ", "x ", " x", "x" * 65, "x" * 300, "x" * 100_000, "CON",
    "NUL.txt", "COM1", "AUX", "-x", "--help", "-", "_x", ".", ".x", ".git", "$HOME", "${HOME}",
    "`id`", "$(id)", "a;b", "a|b", "a&b", "a>b", "a<b", "a*b", "a?b", "a[b]", "a{b}", "a'b", 'a"b',
    "a=b", "a@b", "a#b", "a%b", "%2e%2e%2f", "a+b", "a,b", "a b", "A", "Ab", "aB", "ä", "naïve",
    "日本", "😀", "ｘ",
)  # fmt: skip
INSIDE = (
    "\0", "\n", "\r", "\t", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\xa0", "\xad", "\u200b",
    "\u200d", "\u202e", "\u2028", "\u2029", "\u2215", "\u2044", "\u29f8", "\uff0f", "\uff0e",
    "\u2024", "\u0430", "\u03bf", "\ufeff", "\ufffd", "\ud7ff", "\U000e0001", "\u0131", "\u017f",
    ":", "/", "\\",
)  # fmt: skip
HOSTILE = [
    *WHOLE,
    *(name for sign in INSIDE for name in (f"a{sign}b", f"{sign}a", f"a{sign}", f"a{sign}{sign}a")),
]


def files_under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.faults(trials=200)
def test_no_hostile_name_is_taken_for_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(HOSTILE) >= 200
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text("name: fine\n")
    before = files_under(tmp_path), files_under(tmp_path.parent)
    given = TypeAdapter(RegisteredModel)
    for name in HOSTILE:
        with pytest.raises(DataError, match="cannot be a name"):
            require_name(name, "--name")
        with pytest.raises(ValidationError):
            given.validate_python(name)
        for key in ("name", "registered_model"):
            with pytest.raises(ConfigError):
                load_config(config, (), {f"COMMERCE_CLIP__{key.upper()}": f"!!str {name!r}"})
    assert (files_under(tmp_path), files_under(tmp_path.parent)) == before


@pytest.mark.parametrize("name", ["a", "0", "fashion-gen-base", "v1.2.3", "a_b", "x" * 64])
def test_ordinary_names_are_names(name: str) -> None:
    assert require_name(name, "--name") == name
