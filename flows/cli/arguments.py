"""What the command line takes: every command with an option for each parameter of its function.

Signatures are read from the source. To import the functions would take seconds, and Prefect would
read its settings too early; a signature needs no more than flows/parameters.py holds. What stands
before a ``/`` is given by place, everything else by name.
"""

import argparse
import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from flows import parameters
from flows.parameters import Described


@dataclass(frozen=True)
class Command:
    """The function that a command calls, as ``module:function``.

    What a flow returns goes to its ``printer``, whose other parameters are options, too. A flow
    that starts no run is called as the plain function that it is. A ``quick`` function
    with the same parameters returns whether it has answered in the command's place.
    """

    function: str
    printer: str | None = None
    starts_run: bool = True
    quick: str | None = None

    def options(self) -> list[inspect.Parameter]:
        """Return the parameters that the command line fills in."""
        signatures = [read_signature(self.function)[0]]
        if self.printer is not None:
            signatures.append(read_signature(self.printer, skip=1)[0])
        return [option for signature in signatures for option in signature.parameters.values()]


def parse_arguments(
    words: Sequence[str], commands: Mapping[str, Command], groups: Mapping[str, str]
) -> argparse.Namespace:
    """Return the options of the command that the words begin with, and itself as ``command``.

    A command of a group bears the group's name first.
    """
    whole = argparse.ArgumentParser(
        prog="commerce-clip", description="Retraining of product-search CLIP models."
    )
    places = {"": whole.add_subparsers(required=True, metavar="command")}

    for name, command in commands.items():
        group, _, action = name.rpartition(" ")
        if group not in places:
            added = places[""].add_parser(group, help=groups[group], description=groups[group])
            places[group] = added.add_subparsers(required=True, metavar="action")

        _, about = read_signature(command.function)
        added = places[group].add_parser(action, help=about, description=about)
        added.set_defaults(command=command)
        if name.split() == list(words[: len(name.split())]):  # nobody asks for the others' options
            for option in command.options():
                _add_option(added, option)
    return whole.parse_args(words)


def read_signature(reference: str, skip: int = 0) -> tuple[inspect.Signature, str]:
    """Return the parameters of ``module:function`` but its first ``skip``, and its summary.

    A parameter's type is the name of one in flows/parameters.py, its default a name there or a
    plain value; nothing of the module runs.
    """
    module, name = reference.split(":")
    (found,) = (
        node
        for node in _read_module(module).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )

    # The defaults that there are belong to the last parameters.
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: found.args.posonlyargs,
        inspect.Parameter.POSITIONAL_OR_KEYWORD: found.args.args,
        inspect.Parameter.KEYWORD_ONLY: found.args.kwonlyargs,
    }
    named = [(argument, kind) for kind, arguments in kinds.items() for argument in arguments]
    defaults = [*found.args.defaults, *found.args.kw_defaults]
    missing: list[ast.expr | None] = [None] * (len(named) - len(defaults))
    options = [
        inspect.Parameter(
            argument.arg, kind, default=_value(default), annotation=_value(argument.annotation)
        )
        for (argument, kind), default in zip(named[skip:], (missing + defaults)[skip:], strict=True)
    ]
    about = (ast.get_docstring(found) or "").partition("\n\n")[0]
    return inspect.Signature(options), " ".join(about.split())


def _value(node: ast.expr | None) -> Any:
    """Return the value of a name in flows/parameters.py, a plain value, or that there is none."""
    if node is None:
        return inspect.Parameter.empty
    return getattr(parameters, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)


@cache
def _read_module(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, "a command names a module of ours"
    return ast.parse(Path(spec.origin).read_bytes())


def _add_option(command: argparse.ArgumentParser, option: inspect.Parameter) -> None:
    assert get_origin(option.annotation) is Annotated, f"{option.name} is not described"
    kind, *notes = get_args(option.annotation)
    (described,) = (note for note in notes if isinstance(note, Described))
    about = f"{described.text} May be repeated." if described.repeated else described.text
    settings = _reading(kind, described) | {
        "metavar": described.metavar,
        "help": about.replace("%", "%%"),
    }
    if option.kind is option.POSITIONAL_ONLY:
        command.add_argument(option.name, **settings)
        return

    # A default that is appended to has to be a list; argparse appends to a copy of it.
    flag = described.flag or f"--{option.name.replace('_', '-')}"
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    settings |= {"required": True} if default is option.empty else {"default": default}
    command.add_argument(flag, dest=option.name, **settings)


def _reading(kind: Any, described: Described) -> dict[str, Any]:
    """Return how argparse reads a value of a type."""
    if get_origin(kind) in (Union, UnionType):  # with None: the option may be left out
        (kind,) = set(get_args(kind)) - {NoneType}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is Sequence:
        return {"action": "append"} if described.repeated else {"nargs": "+"}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}

    def integer(text: str) -> int:
        number = int(text)
        if described.ge is not None and number < described.ge:
            raise argparse.ArgumentTypeError(f"{text} is less than {described.ge}")
        return number

    return {"type": integer if kind is int else kind}
