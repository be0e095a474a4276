"""The checks of a driver: each reads what is logged, can fail, and does not fail by chance."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from functools import partial

from evenkeel.errors import InputError, did_you_mean
from evenkeel.metrics.expression import (
    Aggregate,
    Check,
    Compare,
    Function,
    Not,
    Number,
    Read,
    Step,
    walk,
)
from evenkeel.metrics.parser import parse
from evenkeel.recipes.lint import facts as keys
from evenkeel.recipes.lint import metric_catalogue as catalogue
from evenkeel.recipes.lint.driver_file import CheckList, CheckText
from evenkeel.recipes.lint.intervals import decided
from evenkeel.recipes.lint.registry import Finding, Rule, Severity, Subject, declare, looks_at
from evenkeel.recipes.lint.setup import Setup, setup_of_driver
from evenkeel.recipes.lint.tree import Tree

SYNTAX = declare(
    "EK501",
    "check does not read",
    reason="A check that cannot be read ends the night without a verdict.",
    fix="Correct the expression.",
)
VACUOUS = declare(
    "EK502",
    "check is always true or always false",
    reason="A bound outside the metric's range can never catch, or never pass, anything.",
    fix="Choose a bound within the metric's range.",
)
NAN_BLIND = declare(
    "EK503",
    "check lets NaN pass",
    reason="Comparisons with NaN are dropped by max and min and turned round by not and !=.",
    fix="Add a mean of the same metric, or check it with 'evenkeel check'.",
    severity=Severity.WARNING,
)
SINGLE_STEP = declare(
    "EK504",
    "a single step of a noisy metric decides",
    reason="One step of a noisy curve fails good code and passes bad code by chance.",
    fix='Check a mean over steps, as in mean(data["train/loss"], -10, 0) < 0.58.',
    severity=Severity.WARNING,
)
BEYOND = declare(
    "EK505",
    "check reads a step beyond MAX_STEPS",
    reason="The step is never reached, so the check can never pass.",
    fix="Read a step up to MAX_STEPS.",
)
NEVER_LOGGED = declare(
    "EK506",
    "check reads a step that is never logged",
    reason="Validation runs every val_period steps, training steps count from 1.",
    fix="Read a step that is logged.",
)
UNKNOWN_METRIC = declare(
    "EK507",
    "check names a metric that is not logged",
    reason="A mistyped metric makes the check fail after the whole run was paid for.",
    fix="Correct the metric's name.",
)
TIME_MIXED = declare(
    "EK508",
    "time checks among convergence checks",
    reason="A slow neighbour on the cluster then looks like a regression of the training.",
    fix="Judge time apart from convergence, in a command of its own.",
    severity=Severity.WARNING,
)
_READING_RULES = (SYNTAX, VACUOUS, NAN_BLIND, SINGLE_STEP, BEYOND, NEVER_LOGGED, UNKNOWN_METRIC)


@looks_at(Subject.DRIVER, *_READING_RULES, TIME_MIXED)
def checks_can_be_trusted(tree: Tree, path: str) -> Iterator[Finding]:
    """Each check by itself, and the checks of one command together."""
    driver = tree.driver(path)
    if driver.problem is not None or not driver.check_lists:
        return
    setup = setup_of_driver(tree, path)
    for checks in driver.check_lists:
        parsed: list[tuple[CheckText, Check]] = []
        for written in checks.checks:
            try:
                parsed.append((written, parse(written.text)))
            except InputError as problem:
                # '$' in single quotes reaches the script as it is
                if not checks.foreign or "$" in written.text or not _is_python(written.text):
                    yield _finding(SYNTAX, path, written, problem.message, problem.fix)
        for written, check in parsed:
            yield from _one_check(tree, path, setup, written, check)
        if checks.foreign:
            yield from _nan_blind(path, parsed, driver.numbers.get("MAX_STEPS"))
        yield from _time_mixed(path, checks, parsed)


def _finding(
    rule: Rule, path: str, written: CheckText, message: str, fix: str | None = None
) -> Finding:
    return Finding(rule.code, path, written.line, message, fix or rule.fix, written.anchor)


def _is_python(text: str) -> bool:
    """Whether a script that evaluates Python would at least read it."""
    try:
        ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _one_check(
    tree: Tree, path: str, setup: Setup | None, written: CheckText, check: Check
) -> Iterator[Finding]:
    driver = tree.driver(path)
    max_steps = driver.numbers.get("MAX_STEPS")
    verdict = decided(check.tree, partial(_range, driver.claims.algo, check, setup))
    if verdict is not None:
        what = "holds" if verdict else "fails"
        yield _finding(VACUOUS, path, written, f"{check.text} always {what}, whatever the run does")
    for read in check.reads:
        metric_problem = _unknown(tree, path, setup, read.metric)
        if metric_problem is not None:
            yield _finding(UNKNOWN_METRIC, path, written, metric_problem)
            continue
        if max_steps is not None:
            problem = _beyond(read, max_steps)
            if problem is not None:
                yield _finding(BEYOND, path, written, f"{problem}, but MAX_STEPS is {max_steps}")
                continue
        problem = _never_logged(read, max_steps, setup)
        if problem is not None:
            yield _finding(NEVER_LOGGED, path, written, problem)
        elif verdict is None and _is_single_step(read, max_steps):
            yield _finding(
                SINGLE_STEP,
                path,
                written,
                f"{check.text}: {describe(read)} is a single noisy value",
            )


def _range(algo: str, check: Check, setup: Setup | None, metric: str) -> tuple[float, float]:
    low, high = catalogue.range_of(metric, algo)
    if high == 1.0 and (setup is None or not setup.is_ours):
        # other trainers may log it in percent; a bound above 2 says that they do
        bounds = [node.value for node in walk(check.tree) if isinstance(node, Number)]
        if any(2 < abs(bound) <= 100 for bound in bounds):
            return low, 100.0
    return low, high


def _unknown(tree: Tree, path: str, setup: Setup | None, metric: str) -> str | None:
    judged = setup is not None and setup.is_ours and not catalogue.is_time(metric)
    if catalogue.known(metric) is not None and not judged:
        return None
    algo = tree.driver(path).claims.algo
    if setup is not None and setup.is_ours:
        fact = setup.facts.get("algorithm")
        logged = catalogue.logged_by(algo if fact is None else str(fact.value))
        entry = catalogue.known(metric)
        if metric in logged or (entry is not None and "*" in entry.name and entry.ours):
            return None
        return f"{algo} does not log {metric!r}{did_you_mean(metric, logged)}"
    near = difflib.get_close_matches(metric, catalogue.every_name(), n=1, cutoff=0.88)
    if not near or _is_variant(metric, near[0]) or tree.num_drivers_reading(metric, at_most=2) > 1:
        return None
    return f"no other driver reads {metric!r} (did you mean {near[0]!r}?)"


def _is_variant(metric: str, near: str) -> bool:
    """Whether two names differ by a whole word, as ``…_min`` and ``…_max`` do."""
    words, others = (set(name.replace("/", "_").split("_")) for name in (metric, near))
    left, right = words - others, others - words
    if len(left) != 1 or len(right) != 1:
        return not (left and right)
    return difflib.SequenceMatcher(None, left.pop(), right.pop()).ratio() < 0.7


def describe(read: Read) -> str:
    """What is read, as the check writes it."""
    if isinstance(read, Step):
        return f'data["{read.metric}"]["{read.step}"]'
    metric = f'data["{read.metric}"]'
    bounds = [str(bound) for bound in (read.range.start, read.range.end) if bound is not None]
    return f"{read.function}({', '.join([metric, *bounds])})"


def _beyond(read: Read, max_steps: int) -> str | None:
    if isinstance(read, Step):
        return f"{describe(read)} is read" if read.step > max_steps else None
    start, end = read.range.start, read.range.end
    if start is not None and start > max_steps:
        return f"{describe(read)} is read"
    if end is not None and end > max_steps + 1:
        return f"{describe(read)} is read"
    return None


def _never_logged(read: Read, max_steps: int | None, setup: Setup | None) -> str | None:
    if isinstance(read, Aggregate):
        start, end = read.range.start, read.range.end
        same_sign = start is not None and end is not None and (start < 0) == (end < 0)
        if same_sign and start is not None and end is not None and end != 0 and start >= end:
            return f"{describe(read)} is an empty range: its end stands outside of it"
        return None
    if read.step < 0:
        return None
    trains = read.metric.startswith("train/")
    if trains and read.step == 0:
        return f"{describe(read)} is never logged: the first training step is 1"
    if not read.metric.startswith("validation/") or setup is None or read.step == 0:
        return None
    period = setup.facts.get(*keys.VAL_PERIOD)
    if period is None or type(period.value) is not int:
        return None
    if read.step == max_steps:
        at_end = setup.facts.get(*keys.VAL_AT_END)
        if setup.is_ours or at_end is None or at_end.value is not False:
            return None
    if period.value > 0 and read.step % period.value == 0:
        return None
    rhythm = f"every {period.value} steps" if period.value > 0 else "only at the end, if at all"
    return f"{describe(read)} is never logged: validation runs {rhythm} ({period.origin})"


def _is_single_step(read: Read, max_steps: int | None) -> bool:
    metric = catalogue.known(read.metric)
    if metric is None or not metric.noisy:
        return False
    if isinstance(read, Step):
        return read.step != 1  # before the first update nothing is noise but the data
    start, end = read.range.start, read.range.end
    if start is None or read.function is Function.RATIO_ABOVE:
        return False
    last = max_steps if max_steps is not None else None
    if last is None:
        return end is not None and end - start == 1 and start != 1
    first, stop = read.range.resolve(last)
    return (last + 1 if stop is None else stop) - first == 1 and first != 1


def _nan_blind(
    path: str, parsed: list[tuple[CheckText, Check]], max_steps: int | None
) -> Iterator[Finding]:
    """Checks that Python's own comparisons pass with NaN, where no other check would see it."""
    seen: set[str] = set()
    for _, check in parsed:
        if not _turns_round(check):
            seen.update(read.metric for read in check.reads if _guards(read, max_steps))
    for written, check in parsed:
        blind = [
            read
            for read in check.reads
            if catalogue.is_curve(read.metric)
            and read.metric not in seen
            and (_turns_round(check) or _is_blind(read))
        ]
        if blind and decided(check.tree, lambda _: (float("-inf"), float("inf"))) is None:
            yield _finding(
                NAN_BLIND,
                path,
                written,
                f"{check.text} can pass although {blind[0].metric!r} holds NaN",
            )


def _turns_round(check: Check) -> bool:
    return any(
        isinstance(node, Not) or (isinstance(node, Compare) and "!=" in node.ops)
        for node in walk(check.tree)
    )


def _is_blind(read: Read) -> bool:
    """Whether NaN among what is read can vanish."""
    if isinstance(read, Step):
        return False
    return read.function is not Function.MEAN or read.ignore_top_p > 0


def _guards(read: Read, max_steps: int | None) -> bool:
    """Whether a NaN that stays to the end would show."""
    if isinstance(read, Step):
        return read.step == max_steps or read.step < 0
    return not _is_blind(read)


def _time_mixed(
    path: str, checks: CheckList, parsed: list[tuple[CheckText, Check]]
) -> Iterator[Finding]:
    timed = [
        (written, check)
        for written, check in parsed
        if check.metrics and all(catalogue.is_time(name) for name in check.metrics)
    ]
    curves = [check for _, check in parsed if any(catalogue.is_curve(m) for m in check.metrics)]
    if timed and curves:
        written, check = timed[0]
        others = f" and {len(timed) - 1} more" if len(timed) > 1 else ""
        yield _finding(
            TIME_MIXED, path, written, f"{check.text}{others} judges time among convergence checks"
        )
