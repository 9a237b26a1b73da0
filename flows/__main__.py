"""The command line: `python -m flows retrain --config configs/sample.yaml --set finetune.epochs=2`."""

import argparse
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from flows.cli.arguments import SERVICES, parser
from model.errors import CommerceClipError
from tasks.runtime.environment import prepare

if TYPE_CHECKING:
    from prefect import Flow

BY_HAND = ("promote", "rollback")
BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class _Terminated(BaseException):
    """SIGTERM came."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 1 for what the user can mend, 2 for a bug of ours, 130 for Ctrl-C, 143 for SIGTERM."""
    options = parser().parse_args(arguments)
    prepare()
    try:
        with _raising_on_sigterm():
            _run(options)
    except CommerceClipError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, _Terminated) as stop:
        again = shlex.join(["python", "-m", "flows", *(arguments or sys.argv[1:])])
        print(
            f"\nstopped; finished stages and checkpoints are kept. Go on with: {again}",
            file=sys.stderr,
        )
        return TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED
    except Exception:
        traceback.print_exc()
        return BUG
    return 0


@contextmanager
def _raising_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that Prefect marks the run and locks and temporary
    files go.

    Within a flow Prefect takes the signal first, marks the run as crashed, and sends it again.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: argparse.Namespace) -> None:
    """Call the command's function; Prefect reads its settings at import, so everything is imported only now."""
    if options.command in SERVICES:
        from flows import automations, stack

        {"up": stack.up, "down": stack.down, "automate": automations.automate}[options.command]()
    elif options.command == "history":
        from flows.cli.history import print_history

        print_history(options.registered_model)
    elif options.command == "data":
        _look_at_data(options)
    elif options.command == "models":
        _look_at_models(options)
    elif options.command == "predict":
        from flows.cli.predict import predict

        predict(**_parameters(options))
    elif options.command == "import":
        from flows.cli.imports import import_files

        import_files(options.kind, options.sources, options.out, options.set)
    elif int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun's
        from tasks.cluster.torchrun import lead_or_help

        lead_or_help(lambda: _run_flow(options))
    else:
        _run_flow(options)


def _look_at_data(options: argparse.Namespace) -> None:
    from flows.cli import data

    if options.action == "diff":
        data.diff(options.reference, options.current)
    else:
        {"log": data.log, "status": data.status, "pull": data.pull}[options.action]()


def _look_at_models(options: argparse.Namespace) -> None:
    from flows.cli import models

    given = {key: value for key, value in vars(options).items() if key not in ("command", "action")}
    actions = {"list": models.show_family, "show": models.show}
    actions |= {"import": models.import_files, "convert": models.convert}
    actions[options.action](**given)


def _run_flow(options: argparse.Namespace) -> None:
    from flows import stack

    stack.require_running()
    if options.command == "retrain":
        from flows.report import print_report
        from flows.retrain import retrain

        print_report(retrain(config=options.config, data=options.data, overrides=options.set))
    elif options.command == "ingest":
        from flows.ingest import ingest, print_ingested

        print_ingested(ingest(**_parameters(options)))
    elif options.command == "validate":
        from flows.report import print_validation
        from flows.stages import validate

        print_validation(validate(**_parameters(options)))
    elif options.command == "evaluate":
        from flows.cli.evaluation import print_evaluation
        from flows.stages import evaluate

        compared_with, protocols = options.compare, options.protocol
        chosen = (
            [f"evaluate.protocols=[{','.join(map(repr, protocols.split(',')))}]"]
            if protocols
            else []
        )
        parameters = _parameters(options, without=("compare", "protocol"))
        print_evaluation(
            evaluate(**parameters | {"overrides": [*options.set, *chosen]}), compared_with
        )
    else:
        outcome = _function(options.command)(**_parameters(options))
        print("null" if outcome is None else outcome.model_dump_json(indent=2))


def _function(name: str) -> Callable[..., Any]:
    """Return what a command calls.

    What a person does to the champion waits for no flow run to begin: the registry's history keeps
    who did it and why.
    """
    if name in BY_HAND:
        from flows import by_hand

        return {"promote": by_hand.promote.fn, "rollback": by_hand.rollback.fn}[name]
    from flows import stages

    stage: Flow[..., Any] = getattr(stages, name.replace("-", "_"))
    return stage


def _parameters(options: argparse.Namespace, without: tuple[str, ...] = ()) -> dict[str, Any]:
    given = {
        key: value
        for key, value in vars(options).items()
        if key not in ("command", "set", *without)
    }
    return given | ({"overrides": options.set} if "set" in options else {})


if __name__ == "__main__":
    sys.exit(main())
