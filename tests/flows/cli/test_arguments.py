"""Options are the parameters of what a command calls, read without importing it."""

import inspect
import subprocess
import sys
from importlib import import_module
from typing import Any, get_args

import pytest
from prefect import Flow

from flows.__main__ import main
from flows.cli.arguments import Command, parse_arguments, read_signature
from flows.cli.commands import COMMANDS, GROUPS
from flows.parameters import Described
from tasks.runtime.environment import ROOT

HEAVY = ("prefect", "torch", "mlflow", "great_expectations", "pydantic", "rich", "yaml")
REFERENCES = {
    reference: skip
    for command in COMMANDS.values()
    for skip, reference in enumerate((command.function, command.printer))
    if reference is not None
}


def imported(reference: str) -> Any:
    module, name = reference.split(":")
    found = getattr(import_module(module), name)
    return found.fn if isinstance(found, Flow) else found


def parsed(line: str) -> dict[str, Any]:
    return vars(parse_arguments(line.split(), COMMANDS, GROUPS))


@pytest.mark.parametrize(("reference", "skip"), REFERENCES.items())
def test_a_signature_read_from_the_source_is_that_of_the_function(
    reference: str, skip: int
) -> None:
    real = list(inspect.signature(imported(reference)).parameters.values())
    signature, _ = read_signature(reference, skip)
    assert list(signature.parameters.values()) == real[skip:]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_says_what_it_is_for(name: str) -> None:
    command = COMMANDS[name]
    assert read_signature(command.function)[1]
    for option in command.options():
        (described,) = (note for note in get_args(option.annotation) if isinstance(note, Described))
        assert described.text.endswith(".")


def test_help_imports_nothing_that_takes_time() -> None:
    code = (
        "import sys\nfrom flows.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    print(*sys.modules)"
    )
    for arguments in ([], ["retrain"], ["predict"], ["models", "import"]):
        command = [sys.executable, "-c", code, *arguments, "--help"]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        modules = printed.stdout.splitlines()[-1].split()
        assert not {*HEAVY, "flows.stages", "flows.retrain"} & set(modules)


def test_a_parameter_that_a_flow_has_is_an_option() -> None:
    given = parsed(
        "retrain --device cpu --finetune-epochs 2 --when-busy wait --set seed=1 --set a=b"
    )
    assert (given["device"], given["finetune_epochs"], given["when_busy"]) == ("cpu", 2, "wait")
    assert given["overrides"] == ["seed=1", "a=b"]
    assert given["config"] == "configs/sample.yaml"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("validate --config sample --data pairs", {"config": "sample", "data": "pairs"}),
        ("evaluate", {"version": "champion", "protocols": None, "compare": None}),
        (
            "evaluate --version 3 --protocol full,101 --compare published",
            {"version": "3", "protocols": "full,101", "compare": "published"},
        ),
        ("promote --version 7", {"version": 7, "reason": "no reason given"}),
        ("rollback --registered-model muge", {"registered_model": "muge"}),
        (
            "ingest --name a --pretrain x.tsv y.tsv --mend q.tsv",
            {"name": "a", "pretrain": ["x.tsv", "y.tsv"], "mend": "q.tsv", "train": None},
        ),
        (
            "import muge --set split=test a b --out c",
            {"kind": "muge", "sources": ["a", "b"], "out": "c", "overrides": ["split=test"]},
        ),
        ("models import x --as y --activation gelu", {"path": "x", "name": "y", "licence": None}),
        ("models convert a --to easynlp --out b", {"source": "a", "to": "easynlp", "out": "b"}),
        ("data diff a b", {"reference": "a", "current": "b"}),
        (
            "predict t.tsv --out o --format easynlp --batch-size 3",
            {"tsv": "t.tsv", "form": "easynlp", "batch_size": 3, "context_length": None},
        ),
    ],
)
def test_a_command_line_gives_its_values(line: str, expected: dict[str, Any]) -> None:
    given = parsed(line)
    assert {name: given[name] for name in expected} == expected
    assert isinstance(given["command"], Command)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "required: command"),
        ("data", "required: action"),
        ("promote", "required: --version"),
        ("promote --version x", "invalid integer value: 'x'"),
        ("predict t.tsv --out o --workers 0", "0 is less than 1"),
        ("predict t.tsv --out o --format csv", "invalid choice: 'csv'"),
        ("evaluate --compare ours", "invalid choice: 'ours'"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused(
    line: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(line)
    assert complaint in capsys.readouterr().err


def test_processes_of_torchrun_lead_or_help_where_a_flow_would_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    led = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("tasks.cluster.torchrun.lead_or_help", led.append)
    assert main(["finetune"]) == 0
    assert len(led) == 1
