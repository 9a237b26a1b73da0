"""The command line: `python -m flows retrain --config configs/sample.yaml --set finetune.epochs=2`."""

import argparse
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import Any

from model.errors import CommerceClipError
from tasks.environment import prepare

STAGES = {
    "retrain": "the main job: validate, pretrain, finetune, evaluate, register, promote, export",
    "validate": "profile and judge a data version; write quarantine and Data Docs",
    "pretrain": "validate, then train the base weights further on the pretraining pairs",
    "finetune": "validate and pretrain, then fine-tune on the train split",
    "evaluate": "judge a registered version on the test split",
    "promote": "make a registered version champion by hand",
    "rollback": "make the previous champion the champion again",
    "export": "write the embeddings of products by a registered version",
}
SERVICES = {
    "up": "start a Prefect server, a worker and an MLflow server on loopback; create the deployments",
    "down": "stop what `up` started",
}
BAD_INPUT, BUG, INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 1 for what the user can mend, 2 for a bug of ours, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    prepare()
    try:
        _run(options)
    except CommerceClipError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "flows", *(arguments or sys.argv[1:])])
        print(f"\nstopped; finished stages and checkpoints are kept. Go on with: {again}", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return BUG
    return 0


def _run(options: argparse.Namespace) -> None:
    """Call the command's function; Prefect reads its settings at import, so it is imported only now."""
    from flows import stack

    if options.command in SERVICES:
        {"up": stack.up, "down": stack.down}[options.command]()
        return
    stack.require_running()
    from flows.report import print_report
    from flows.retrain import retrain

    if options.command == "retrain":
        print_report(retrain(config=options.config, data=options.data, overrides=options.set))
    else:
        print(_stage_flow(options.command)(**_parameters(options)).model_dump_json(indent=2))


def _stage_flow(name: str) -> Callable[..., Any]:
    from flows import stages

    flow: Callable[..., Any] = getattr(stages, name)
    return flow


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    given = {key: value for key, value in vars(options).items() if key not in ("command", "set")}
    return given | ({"overrides": options.set} if "set" in options else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows", description="Retraining of product-search CLIP models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, what in (STAGES | SERVICES).items():
        command = commands.add_parser(name, help=what, description=what)
        if name in ("promote", "rollback"):
            command.add_argument("--reason", default="no reason given", help="why; kept as a tag of the version")
            command.add_argument("--registered-model", default="commerce-clip", help="name in the MLflow registry")
        elif name in STAGES:
            _add_config_options(command)
        if name == "promote":
            command.add_argument("--version", type=int, required=True, help="number of the registered version")
        if name in ("evaluate", "export"):
            command.add_argument("--version", default="champion", help="number or alias of the registered version")
    return parser


def _add_config_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", default="configs/sample.yaml", help="YAML file of the run, or its name in configs/"
    )
    command.add_argument("--data", help="folder of pairs in place of the config's data.path")
    command.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a knob; may be repeated"
    )


if __name__ == "__main__":
    sys.exit(main())
