"""The command line: `commerce-clip retrain --config sample --set finetune.epochs=2`."""

import shlex
import signal
import sys
import traceback
from contextlib import ExitStack
from types import FrameType

from flows.cli.arguments import parse_arguments
from flows.cli.commands import COMMANDS, GROUPS, run_command
from model.errors import CommerceClipError, typed
from tasks.runtime.environment import prepare

BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class _Terminated(BaseException):
    """SIGTERM came."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    It is 0, or 1 for what the user can repair, 2 for a bug of ours, 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(words, COMMANDS, GROUPS)
    prepare()

    try:
        # SIGTERM unwinds as Ctrl-C does: Prefect marks the run, locks and temporary files go.
        # Within a flow Prefect takes it first, marks the run as crashed, and sends it again.
        with ExitStack() as undo:
            undo.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminate))
            run_command(options)
    except CommerceClipError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, _Terminated) as stop:
        again = typed(shlex.join(words))
        is_flow = options.command.printer is not None and options.command.starts_run
        kept = (
            "finished stages and checkpoints are kept. Go on with"
            if is_flow
            else "begin again with"
        )
        print(f"\nstopped; {kept}: {again}", file=sys.stderr)
        return TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED
    except Exception:
        traceback.print_exc()
        return BUG
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def run() -> None:
    """Run the command that was typed, and exit: the script `commerce-clip`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
