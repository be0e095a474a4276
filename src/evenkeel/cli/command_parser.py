"""The parser of every subcommand, and the actions of those that have several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, TypeVar

from evenkeel.errors import did_you_mean

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


class CommandParser(argparse.ArgumentParser):
    """Takes positional arguments before, between and after options.

    argparse has a method for that, which formats the usage each time: too slow for an estimate, so
    it is asked only where something is left over.
    """

    _asked = False

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As the base class; of a mistyped option the nearest is told."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            strangers = [word for word in rest if word.startswith("-")] or rest
            typed = strangers[0].partition("=")[0]
            # one that another action has is no misspelling
            hint = did_you_mean(typed, [one for one in self._options() if one != typed])
            self.error(f"unrecognized arguments: {' '.join(strangers)}{hint}")
        return found

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the base class, with positional arguments and options in any order."""
        found, rest = super().parse_known_args(args, namespace)
        has_actions = any(one.nargs == argparse.PARSER for one in self._get_positional_actions())
        if not rest or has_actions or self._asked:
            return found, rest
        self._asked = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._asked = False

    def _options(self) -> list[str]:
        """All that can be typed, for one of the actions where there are any."""
        found = list(self._option_string_actions)
        for argument in self._actions:
            if isinstance(argument, argparse._SubParsersAction):
                for action in argument.choices.values():
                    found += action._option_string_actions
        return found


def add_action(
    actions: argparse._SubParsersAction[Parser], name: str, line: str, text: str
) -> Parser:
    """The parser of one action, with a help that tells as much as a subcommand's own.

    Args:
        actions: of the subcommand.
        name: what is typed.
        line: for the list of actions.
        text: a paragraph about it, then examples and exit status.
    """
    about, _, rest = text.partition("\n\n")
    return actions.add_parser(
        name,
        help=line,
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
