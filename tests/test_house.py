"""The rules of CONTRIBUTING that a machine can hold the code to."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.runtime.environment import ROOT

PACKAGES = ("flows", "search", "tasks", "model")
BESIDE_WINGS = {
    "model": {"__init__.py", "errors.py"},
    "tasks": {"__init__.py", "run.py"},
}
# Modules of one protocol share its names; a flow bears the name of its stage; each module has a
# logger.
PROTOCOLS = ("model/importers/", "model/zoo/forms/")
SHARED_NAMES = {"log", "T", "P", "R"}
FLOWS = ("flows/stages.py", "flows/by_hand.py", "flows/ingest.py", "flows/cli/")
MOST_BARE = 0.35
LONG = 15
MOST_LAZY_IMPORTS = 13

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(package: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Yield path from the root, text and tree of every module."""
    for path in sorted((ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(ROOT).as_posix(), text, ast.parse(text)


def functions(tree: ast.Module) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def length(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def is_bare(function: Function, lines: list[str]) -> bool:
    """Whether a body has neither a blank line nor a comment."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = (first.end_lineno or 0) if is_docstring else first.lineno - 1
    body = [line.strip() for line in lines[start : function.end_lineno]]
    return not any(not line or line.startswith("#") for line in body)


@pytest.mark.parametrize("package", BESIDE_WINGS)
def test_a_package_holds_wings_whose_promise_imports_nothing(package: str) -> None:
    files = {path.name for path in (ROOT / package).glob("*.py")}
    assert files == BESIDE_WINGS[package]
    wings = [path for path in (ROOT / package).iterdir() if (path / "__init__.py").is_file()]
    assert wings
    for wing in wings:
        tree = ast.parse((wing / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) and len(tree.body) == 1, wing


@pytest.mark.parametrize("package", PACKAGES)
def test_long_functions_have_paragraphs(package: str) -> None:
    found = [
        (f"{path}:{function.lineno} {function.name}", is_bare(function, text.splitlines()))
        for path, text, tree in sources(package)
        for function in functions(tree)
        if length(function) >= LONG
    ]
    bare = [name for name, is_one in found if is_one]
    assert len(bare) <= MOST_BARE * len(found), f"{len(bare)} of {len(found)}: {bare}"


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_stay_under_60_lines_and_files_under_400(package: str) -> None:
    for path, text, tree in sources(package):
        assert len(text.splitlines()) <= 400, path
        assert [each.name for each in functions(tree) if length(each) > 60] == [], path


def test_no_public_name_stands_in_two_modules() -> None:
    places = defaultdict(set)
    for package in PACKAGES:
        for path, _, tree in sources(package):
            for name in top_level_names(tree):
                if not name.startswith("_") and name not in SHARED_NAMES:
                    places[name].add(path)
    twice = {
        name: sorted(paths)
        for name, paths in places.items()
        if len(paths) > 1
        and not any(all(path.startswith(folder) for path in paths) for folder in PROTOCOLS)
        and len([path for path in paths if not path.startswith(FLOWS)]) > 1
    }
    assert twice == {}


def top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def test_imports_stand_at_the_top_but_for_a_few_doors() -> None:
    lazy = [
        f"{path}:{function.lineno}"
        for package in PACKAGES
        for path, _, tree in sources(package)
        for function in functions(tree)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function))
    ]
    assert len(lazy) <= MOST_LAZY_IMPORTS, lazy


def test_every_exception_is_caught_by_its_name_but_in_one_place() -> None:
    wide = [
        path
        for package in PACKAGES
        for path, _, tree in sources(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    assert wide == ["flows/__main__.py"]


def test_docstrings_name_a_thing() -> None:
    for package in PACKAGES:
        for path, text, _ in sources(package):
            assert '"""Return what ' not in text, path


@pytest.mark.parametrize("document", ["docs/tour.md", "CONTRIBUTING.md", "README.md"])
def test_files_that_a_document_names_exist(document: str) -> None:
    named = files_named(ROOT / document)
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def files_named(document: Path) -> list[str]:
    """Return the paths in backquotes or link targets that begin with a folder of ours."""
    words = document.read_text(encoding="utf-8").replace("(", "`").replace(")", "`").split("`")
    starts = tuple(f"{name}/" for name in (*PACKAGES, "configs", "runs", "docs", "tests"))
    places = [word.removeprefix("../").split("#")[0] for word in words]
    return [place for place in places if place.startswith(starts) and " " not in place]
