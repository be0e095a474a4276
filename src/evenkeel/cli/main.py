"""``evenkeel``: imports the subcommand asked for; turns errors into messages and exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from evenkeel.cli.command_parser import CommandParser
from evenkeel.errors import EXIT_INTERRUPTED, EvenkeelError, InputError, did_you_mean

# subcommand → (module below evenkeel.cli, one line of help), in the order in which data flows.
# Only the module of the subcommand that was asked for is imported: --help stays fast.
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "name": ("name", "read, check and explain recipe names"),
    "suite": ("suite", "what the suites hold, what it costs, and how it last went"),
    "new": ("new", "write recipe, driver and listing entry from a name"),
    "rename": ("rename", "give a recipe and everything that bears it another name"),
    "bump": ("bump", "give a recipe its next version .vN"),
    "recipe": ("recipe", "show what a recipe resolves to, and whether it fits its GPUs"),
    "lint": ("lint", "hold names, drivers, recipes, listings and checks against each other"),
    "plan": ("plan", "what drivers cost in GPU-hours, and what fits a budget"),
    "launch": ("launch", "snapshot the code and run drivers, on Slurm or here"),
    "watch": ("watch", "follow the jobs of a launch to one verdict per recipe"),
    "continue": ("continuation", "run a launched recipe once more; what continue.sh calls"),
    "snapshot": ("snapshot", "verify, list and prune the snapshots of launches"),
    "driver": ("driver", "what driver scripts ask: train, judge, is there anything left to do"),
    "collect": ("collect", "turn the event files of a run into its metrics.json"),
    "check": ("check", "judge a metrics.json by checks"),
    "baseline": ("baseline", "record, show and accept the runs that new ones are compared with"),
    "compare": ("compare", "judge a run by the runs of its baseline"),
    "confirm": ("confirm", "train a run in doubt again, and judge both together"),
    "equivalence": ("equivalence", "hold runs of other layouts and backends against each other"),
    "seams": ("seams", "find where a continued run shows that it was continued"),
    "mutate": ("mutate", "plant bugs into the trainers, and count who finds them"),
}

EPILOG = """\
exit status: 0 good; 1 a verdict or finding that is not; 2 bad input or usage;
             3 the machine or the cluster failed; 130 interrupted

'evenkeel COMMAND --help' shows a command's options and examples.
"""


class Subcommand(Protocol):
    """What a module of ``evenkeel.cli`` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options; ``parser.epilog`` holds examples."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the result is the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; never raises for what a user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except EvenkeelError as error:
        print(f"evenkeel: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("evenkeel: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # the reader (head, less) closed the pipe: nothing more to say, and no traceback at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    parser = _top_parser()
    if not arguments:
        parser.print_help()
        return 2
    # parse_known_args would read a subcommand's options as ours, so only the first word is ours
    if not arguments[0].startswith("-") and arguments[0] not in SUBCOMMANDS:
        raise InputError(
            f"there is no command {arguments[0]!r}{did_you_mean(arguments[0], SUBCOMMANDS)}",
            fix="'evenkeel --help' lists the commands",
        )
    top = parser.parse_args(arguments[:1])
    module_name, line = SUBCOMMANDS[top.command]
    subcommand: Subcommand = importlib.import_module(f"evenkeel.cli.{module_name}")
    sub_parser = CommandParser(
        prog=f"evenkeel {top.command}",
        description=line,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommand.add_arguments(sub_parser)
    return subcommand.run(sub_parser.parse_args(arguments[1:]))


def _top_parser() -> argparse.ArgumentParser:
    width = max((len(name) for name in SUBCOMMANDS), default=0)
    listing = "\n".join(f"  {name:<{width}}  {line}" for name, (_, line) in SUBCOMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="evenkeel",
        description="Nightly convergence testing of LLM and VLM training.\n\ncommands:\n" + listing,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="evenkeel COMMAND [options]",
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument(
        "command", choices=list(SUBCOMMANDS), metavar="COMMAND", help=argparse.SUPPRESS
    )
    return parser


def _version() -> str:
    if "--version" not in sys.argv[1:2]:
        return ""
    from importlib.metadata import version

    return f"evenkeel {version('evenkeel')}"


if __name__ == "__main__":
    sys.exit(main())
