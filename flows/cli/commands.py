"""The commands: what each calls, and how its outcome is printed."""

import argparse
import inspect
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import chdir
from importlib import import_module
from typing import Any

from flows.cli.arguments import Command, read_signature
from tasks.runtime.environment import ROOT

JSON = "flows.cli.report:print_json"
COMMANDS = {
    "retrain": Command(
        "flows.retrain:retrain",
        "flows.cli.report:print_report",
        quick="flows.cli.quick:print_nothing_new",
    ),
    "validate": Command("flows.stages:validate", "flows.cli.report:print_validation"),
    "pretrain": Command("flows.stages:pretrain", JSON),
    "finetune": Command("flows.stages:finetune", JSON),
    "evaluate": Command("flows.stages:evaluate", "flows.cli.evaluation:print_evaluation"),
    # A change of the champion waits for no flow run to begin; the registry's history keeps who
    # made it and why.
    "promote": Command("flows.by_hand:promote", JSON, starts_run=False),
    "rollback": Command("flows.by_hand:rollback", JSON, starts_run=False),
    "drift-check": Command("flows.stages:drift_check", JSON),
    "export": Command("flows.stages:export", JSON),
    "history": Command("flows.by_hand:print_history", quick="flows.cli.quick:print_known_history"),
    "ingest": Command("flows.ingest:ingest", "flows.cli.report:print_ingested"),
    "data log": Command("flows.cli.data:print_versions"),
    "data status": Command("flows.cli.data:print_status"),
    "data pull": Command("flows.cli.data_files:pull_data"),
    "data diff": Command("flows.cli.data_files:print_difference"),
    "import": Command("flows.cli.imports:import_data_set"),
    "models list": Command("flows.cli.models:print_family"),
    "models show": Command("flows.cli.models:print_model"),
    "models import": Command("flows.cli.published:import_base_weights"),
    "models convert": Command("flows.cli.published:convert_to_form"),
    "predict": Command("flows.cli.predict:print_predicted"),
    "up": Command("flows.stack:up"),
    "down": Command("flows.stack:down"),
    "deploy": Command("flows.servers.deploy:deploy"),
    "automate": Command("flows.automations:automate"),
}
GROUPS = {
    "data": "Look at data versions.",
    "models": "Look at models of others, take them in and give them back.",
}


def run_command(options: argparse.Namespace) -> None:
    """Call what the parsed options name; nothing heavy is imported before they are checked.

    Raises:
        CommerceClipError: an option is wrong, or what the command raises.
    """
    command, given = options.command, vars(options)
    if command.options():
        given = _load("flows.cli.checks:check_inputs")(command, given)

    if command.printer is None:
        if not _is_answered(command, given):
            _call(_load(command.function), command.function, given)
        return

    # A flow runs at the root of the checkout, as the worker runs it.
    with chdir(ROOT):
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun's
            _load("tasks.cluster.torchrun:lead_or_help")(lambda: _run_flow(command, given))
            return
        _load("flows.cli.checks:begin")(command, given)
        if not _is_answered(command, given):
            _load("flows.cli.checks:check_run")(command, given)
            _run_flow(command, given)


def _is_answered(command: Command, given: Mapping[str, Any]) -> bool:
    """Return whether the command has a quick way and that one was certain."""
    return command.quick is not None and _call(_load(command.quick), command.quick, given)


def _run_flow(command: Command, given: Mapping[str, Any]) -> None:
    assert command.printer is not None, "a flow prints nothing by itself"
    _load("flows.stack:require_running")()
    flow = _load(command.function)
    _load("tasks.runtime.log:log_sentences")()
    outcome = _call(flow if command.starts_run else flow.fn, command.function, given)
    _call(_load(command.printer), command.printer, given, outcome)


def _load(reference: str) -> Any:
    """Return the object that ``module:name`` stands for."""
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def _call(
    function: Callable[..., Any], reference: str, given: Mapping[str, Any], *first: Any
) -> Any:
    """Call a function with those of the given values that its signature names, after the first."""
    signature, _ = read_signature(reference, skip=len(first))
    arguments = inspect.BoundArguments(
        signature, OrderedDict((name, given[name]) for name in signature.parameters)
    )
    return function(*first, *arguments.args, **arguments.kwargs)
