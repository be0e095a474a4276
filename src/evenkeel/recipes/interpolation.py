"""``${...}`` in recipe values, with the meaning that OmegaConf gives it.

``${a.b}`` is the value at a key, ``${.b}`` and ``${..b}`` count from the section that says it,
``${a[0]}`` is an element. A text that is one interpolation takes the value's type; inside longer
text the value is written out. ``${name:arg,arg}`` calls one of the functions below. Resolving
10,000 recipes has to take seconds, which is why this is not left to OmegaConf itself.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from evenkeel.errors import EvenkeelError, did_you_mean
from evenkeel.recipes.located_yaml import parse, plain

# the innermost ones first: an argument or a part of a key may itself be an interpolation
_INNERMOST = re.compile(r"(?<!\\)\$\{([^${}]*)\}")
_CALL = re.compile(r"\s*([A-Za-z_][\w.\-]*)\s*:(.*)", re.DOTALL)
_STEP = re.compile(r"[^.\[\]]+")
_MAX_LENGTH = 100_000
_MAX_COPIED = 100_000
_MAX_CHAIN = 50
_EXPLODES = "its interpolations multiply beyond any sensible size"

Report = Callable[[str, str], None]


class _UnresolvableError(Exception):
    """Why an interpolation has no value."""


class Interpolator:
    """Replaces the interpolations of one tree of plain values, in place.

    Args:
        values: nested dicts and lists; changed.
        report: called with (dotted key, what is wrong) for each value that has no resolution;
            such a value stays as text.
    """

    def __init__(self, values: dict[str, Any], report: Report) -> None:
        self.values = values
        self.report = report
        self.done: dict[str, Any] = {}
        self.underway: list[str] = []
        self.num_copied = 0

    def resolve(self, dotted_keys: Sequence[str]) -> None:
        """Resolves the values at these keys (texts, or lists that hold some)."""
        for dotted in dotted_keys:
            *above, last = dotted.split(".")
            container: Any = self.values
            for key in above:
                container = container.get(key) if isinstance(container, dict) else None
            if not isinstance(container, dict) or last not in container:
                continue  # a key with a dot in it: stays as written
            try:
                container[last] = self.value_of(dotted, container[last])
            except _UnresolvableError as error:
                self.report(dotted, str(error))

    def value_of(self, dotted: str, raw: Any) -> Any:
        """``raw``, found at ``dotted``, without interpolations."""
        if isinstance(raw, str):
            return self._text(dotted, raw) if "${" in raw else raw
        if isinstance(raw, (dict, list)):
            if isinstance(raw, dict):
                return {key: self.value_of(f"{dotted}.{key}", raw[key]) for key in raw}
            return [self.value_of(f"{dotted}.{index}", item) for index, item in enumerate(raw)]
        return raw

    def _text(self, dotted: str, raw: str) -> Any:
        if dotted in self.done:
            return self.done[dotted]
        if dotted in self.underway:
            cycle = [*self.underway[self.underway.index(dotted) :], dotted]
            raise _UnresolvableError(f"interpolation cycle: {' → '.join(cycle)}")
        if len(self.underway) >= _MAX_CHAIN:
            raise _UnresolvableError(f"a chain of more than {_MAX_CHAIN} interpolations")
        self.underway.append(dotted)
        try:
            value = self._expand(dotted, raw)
        finally:
            self.underway.pop()
        self.done[dotted] = value
        return value

    def _expand(self, dotted: str, text: str) -> Any:
        while match := _INNERMOST.search(text):
            value = self._evaluate(dotted, match[1])
            if match.span() == (0, len(text)):
                return value
            if isinstance(value, (dict, list)) and not _CALL.match(text[2:]):
                raise _UnresolvableError(f"${{{match[1]}}} is a section or list inside a text")
            text = text[: match.start()] + str(value) + text[match.end() :]
            if len(text) > _MAX_LENGTH:
                raise _UnresolvableError(_EXPLODES)
        if re.search(r"(?<!\\)\$\{", text):
            raise _UnresolvableError(f"unclosed or nameless interpolation in {_shortened(text)}")
        return text.replace("\\${", "${")

    def _evaluate(self, dotted: str, inner: str) -> Any:
        call = _CALL.match(inner)
        if call:
            return _call(call[1], call[2])
        return self._look_up(dotted, inner.strip())

    def _look_up(self, dotted: str, target: str) -> Any:
        num_dots = len(target) - len(target.lstrip("."))
        steps = _STEP.findall(target)
        if num_dots:
            here = dotted.split(".")
            if num_dots > len(here):
                raise _UnresolvableError(f"${{{target}}} goes above the top level")
            steps = here[: max(len(here) - num_dots, 0)] + steps
        if not steps:
            raise _UnresolvableError(f"${{{target}}} names no key")
        value: Any = self.values
        for index, step in enumerate(steps):
            value = self._child(value, step, ".".join(steps[:index]))
            if not isinstance(value, (dict, list)) or index == len(steps) - 1:
                value = self.value_of(".".join(steps[: index + 1]), value)
        return self._copied(value)

    def _copied(self, value: Any) -> Any:
        """Of its own, so that no two keys share a list, and counted: copies of copies explode."""
        if not isinstance(value, (dict, list)):
            return value
        self.num_copied += len(value)
        if self.num_copied > _MAX_COPIED:
            raise _UnresolvableError(_EXPLODES)
        if isinstance(value, dict):
            return {key: self._copied(child) for key, child in value.items()}
        return [self._copied(child) for child in value]

    def _child(self, value: Any, step: str, above: str) -> Any:
        if isinstance(value, dict) and step in value:
            return value[step]
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            return value[int(step)]
        where = f"{above} has" if above else "there is"
        hint = did_you_mean(step, value) if isinstance(value, dict) else ""
        raise _UnresolvableError(f"interpolates a key that is not there: {where} no {step!r}{hint}")


def _call(name: str, written: str) -> Any:
    if name not in RESOLVERS:
        raise _UnresolvableError(
            f"no function {name!r} for interpolations{did_you_mean(name, RESOLVERS)}; "
            f"there are {', '.join(RESOLVERS)}"
        )
    try:
        arguments = _arguments(written)
    except EvenkeelError as error:
        raise _UnresolvableError(f"cannot read the arguments of {name}: {written!r}") from error
    try:
        return RESOLVERS[name](*arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _UnresolvableError(f"{name}:{written} has no value: {error}") from error


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")


@lru_cache(maxsize=4096)
def _arguments(written: str) -> tuple[Any, ...]:
    """Read as one YAML list: commas inside quotes and brackets are no separators."""
    node = parse(f"[{written}]", "interpolation")
    return () if node is None else tuple(plain(node))


def _environment(name: Any, *default: Any) -> Any:
    if str(name) in os.environ:
        return os.environ[str(name)]
    if not default:
        raise ValueError(f"the environment has no variable {name}")
    return None if default[0] is None else str(default[0])


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value


def _arithmetic(combine: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *numbers: combine(*map(_number, numbers))


RESOLVERS: dict[str, Callable[..., Any]] = {
    "oc.env": _environment,
    "add": _arithmetic(lambda *numbers: sum(numbers)),
    "sub": _arithmetic(lambda a, b: a - b),
    "mul": _arithmetic(lambda *numbers: math.prod(numbers)),
    "div": _arithmetic(lambda a, b: a // b if a % b == 0 else a / b),
    "max": _arithmetic(lambda *numbers: max(numbers)),
    "min": _arithmetic(lambda *numbers: min(numbers)),
}
