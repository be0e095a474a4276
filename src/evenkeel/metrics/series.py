"""``metrics.json``: ``{"<metric>": {"<step>": value}}``, read, checked and written.

The shape is the one that other suites write, so their files are read here and ours there.
Training imports this module: it loads nothing beyond ``json`` before a file is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from evenkeel.atomic_file import write_text
from evenkeel.errors import InputError

Series = dict[int, float]
"""Values of one metric by step."""
Metrics = dict[str, Series]
"""Every metric of a run by name."""

SHAPE = '{"<metric>": {"<step>": value, …}, …}'

MAX_DIGITS = 19
"""Of a step. Beyond 64 bits it is none of any trainer, and int() of long texts is slow."""

# what other writers put in place of the literals NaN and Infinity, in lower case
_NON_FINITE_WORDS = {
    "nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "infinity": math.inf,
    "+infinity": math.inf,
    "-infinity": -math.inf,
}


class _Object(list[tuple[str, Any]]):
    """A JSON object as the parser met it, with repeated keys still there."""


def load(path: Path) -> Metrics:
    """The metrics of the file ``path``; steps ascend, whatever their order in the file.

    Non-finite values stay, written as ``NaN``/``Infinity`` or as the texts ``"nan"``/``"inf"``.

    Raises:
        InputError: there is no such file, it is not JSON (a truncated one
            included), or it has another shape: names file, metric and step.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            "no such metrics file",
            path=path,
            fix="write it with 'evenkeel collect LOG_DIR --output metrics.json'",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text: {error}"
        raise InputError(f"cannot read the metrics: {reason}", path=path) from error
    return _plain(text) or loads(text, path=path)


def _plain(text: str) -> Metrics | None:
    """A file as collections write it, read in a fifth of the time; None: ``loads`` has to look.

    The fast parser lets the last of two equal keys win, so the keys are counted: each is followed
    by a quote and a colon. It knows no NaN, and what it refuses is for ``loads`` to explain.
    """
    import orjson

    try:
        top = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if type(top) is not dict or not all(type(steps) is dict for steps in top.values()):
        return None
    if text.count('":') != len(top) + sum(map(len, top.values())):
        return None
    metrics: Metrics = {}
    for name, steps in top.items():
        digits = "".join(steps)
        plain = digits.isascii() and digits.isdecimal() and max(map(len, steps)) <= MAX_DIGITS
        if steps and not (plain and set(map(type, steps.values())) == {float}):
            return None
        keys = list(map(int, steps))
        series = dict(zip(keys, steps.values(), strict=True))
        if len(series) != len(keys):
            return None
        metrics[name] = series if keys == sorted(keys) else dict(sorted(series.items()))
    return metrics


def loads(text: str, path: Path | None = None) -> Metrics:
    """``load`` of a text; ``path`` is named in messages.

    Raises:
        InputError: as for ``load``.
    """
    try:
        top = json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip())
        what = "the file ends in the middle (cut short?)" if cut else error.msg
        raise InputError(
            f"not JSON: {what}",
            path=path,
            line=error.lineno,
            column=error.colno,
            fix="collect it again from the event files with 'evenkeel collect'",
        ) from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"not JSON of a sensible size: {error}", path=path) from error
    if not isinstance(top, _Object):
        raise InputError(f"expected {SHAPE}, found {_kind(top)} at the top", path=path)
    metrics: Metrics = {}
    for name, steps in top:
        if name in metrics:
            raise InputError(f"metric {name!r} stands in the file twice", path=path)
        metrics[name] = _series(name, steps, path)
    return metrics


def _series(name: str, steps: Any, path: Path | None) -> Series:
    if not isinstance(steps, _Object):
        raise InputError(
            f"metric {name!r}: expected an object of step and value, found {_kind(steps)}",
            path=path,
            fix=f"the shape is {SHAPE}",
        )
    if not steps:
        return {}
    keys, values = zip(*steps, strict=True)
    plain = set(map(type, values)) == {float} and all(map(str.isdecimal, keys))
    if plain and "".join(keys).isascii():
        series = dict(zip(map(int, keys), values, strict=True))
    else:
        series = {_step(name, key, path): _value(name, key, value, path) for key, value in steps}
    if len(series) != len(steps):
        _raise_repeated(name, keys, path)
    return dict(sorted(series.items()))


def _step(name: str, key: str, path: Path | None) -> int:
    digits = key[1:] if key.startswith("-") else key
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > MAX_DIGITS:
        raise InputError(
            f"metric {name!r}: step {key[:40]!r} is not a whole number",
            path=path,
            fix='steps are whole numbers written as strings, as in {"train/loss": {"1": 0.5}}',
        )
    return int(key)


def _value(name: str, key: str, value: Any, path: Path | None) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    elif isinstance(value, str) and value.strip().lower() in _NON_FINITE_WORDS:
        return _NON_FINITE_WORDS[value.strip().lower()]
    raise InputError(
        f"metric {name!r}, step {key}: {_kind(value)} is not a number",
        path=path,
        fix="a value is a number, NaN, Infinity or -Infinity",
    )


def _raise_repeated(name: str, keys: Iterable[str], path: Path | None) -> None:
    seen: set[int] = set()
    for step in map(int, keys):
        if step in seen:
            raise InputError(
                f"metric {name!r}: step {step} stands there twice",
                path=path,
                fix="keep one value per step",
            )
        seen.add(step)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Object):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "a number" if abs(value) < 1e300 else "a number too large"


def dumps(metrics: Mapping[str, Mapping[int, float]]) -> str:
    """The text of a metrics file: one metric a line, metrics by name, steps as numbers.

    Every value is written so that it reads back as the same 64-bit number;
    non-finite ones as ``NaN``, ``Infinity`` and ``-Infinity``.
    """
    lines = [
        f"  {encode_basestring_ascii(name)}: {_line(metrics[name])}" for name in sorted(metrics)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n"


def _line(series: Mapping[int, float]) -> str:
    # without indent json uses its C encoder, the fastest writer of floats at hand
    return json.dumps({str(step): series[step] for step in sorted(series)})


def save(path: Path, metrics: Mapping[str, Mapping[int, float]]) -> None:
    """Write ``metrics`` to ``path``, whole or not at all.

    Raises:
        MachineError: the file system refused; an older file is as it was.
    """
    write_text(path, dumps(metrics))


def last_step(metrics: Mapping[str, Mapping[int, float]]) -> int | None:
    """The highest step at which anything was logged, or None."""
    return max((max(series) for series in metrics.values() if series), default=None)


def is_same(a: float, b: float) -> bool:
    """Whether two values are the same number, NaN being the same as NaN."""
    return a == b or (math.isnan(a) and math.isnan(b))


@dataclass(frozen=True)
class Conflict:
    """A step of a metric that was logged again with another value."""

    metric: str
    step: int
    earlier: float
    later: float


def merge(
    metrics: Metrics, name: str, steps: Sequence[int], values: Sequence[float]
) -> list[Conflict]:
    """Put ``values`` at ``steps`` of metric ``name``, the later over the earlier.

    Returns:
        The steps that had another value before: in ``metrics``, or earlier in ``values``.
    """
    added = dict(zip(steps, values, strict=True))
    series = metrics.setdefault(name, {})
    conflicts = []
    if len(added) < len(steps):
        seen: Series = {}
        for step, value in zip(steps, values, strict=True):
            if step in seen and not is_same(seen[step], value):
                conflicts.append(Conflict(name, step, seen[step], value))
            seen[step] = value
    if series:
        conflicts += [
            Conflict(name, step, series[step], added[step])
            for step in sorted(series.keys() & added.keys())
            if not is_same(series[step], added[step])
        ]
    series.update(added)
    return conflicts
