"""Nothing in our packages can run code that came in a file: no pickle, no eval, no shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "model")
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "yaml.load",
    "yaml.unsafe_load",
    "pd.read_pickle",
    "pandas.read_pickle",
}


def dangers(source: str) -> Iterator[str]:
    """Yield what in a module could run code from data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES
            )
        elif (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in FORBIDDEN_MODULES
        ):
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name, options = (
                ast.unparse(node.func),
                {k.arg: ast.unparse(k.value) for k in node.keywords},
            )
            is_unsafe_load = name.endswith("torch.load") and options.get("weights_only") != "True"
            unsafe_options = {
                ("shell", "True"),
                ("allow_pickle", "True"),
                ("weights_only", "False"),
            }
            if name in FORBIDDEN_CALLS or is_unsafe_load or unsafe_options & set(options.items()):
                yield ast.unparse(node)


@pytest.mark.faults(kind="X1: static", trials=1)
@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_can_run_code_from_a_file(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {
        str(path.relative_to(ROOT)): list(dangers(path.read_text(encoding="utf-8")))
        for path in files
    }
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
    ],
)
def test_what_could_run_code_is_seen(source: str) -> None:
    assert list(dangers(source))
    assert not list(
        dangers("torch.load(path, weights_only=True); np.load(path); yaml.safe_load(text)")
    )
