"""From the text of a check to its tree, through ``ast`` and a whitelist; nothing is evaluated.

check       = truth
truth       = comparison | truth and/or truth | not truth
comparison  = number op number [op number …]         op: < <= > >= == !=
number      = literal | -number | number (+ - * / // % **) number
            | data["metric"]["step"]
            | mean|max|min|median(data["metric"] [, start [, end]] [, ignore_top_p=0.05])
            | ratio_above(data["metric"], bound [, start [, end]])
            | abs(number) | max(number, number, …) | min(number, number, …)
"""

from __future__ import annotations

import ast
import math
import warnings

from evenkeel.errors import InputError, did_you_mean
from evenkeel.metrics.expression import (
    Aggregate,
    Arithmetic,
    Check,
    Compare,
    Function,
    Logic,
    Negate,
    Not,
    Number,
    Numeric,
    ScalarFunction,
    Scalars,
    Step,
    StepRange,
    Truth,
)

MAX_LENGTH = 4000
MAX_DEPTH = 200
FUNCTIONS = tuple(dict.fromkeys(f.value for f in (*Function, *ScalarFunction)))

_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
# keyword → (position of the same argument, canonical name); suites use both spellings
_KEYWORDS = {"start": "start", "range_start": "start", "end": "end", "range_end": "end"}
_STEP_FIX = 'write a step as data["train/loss"]["100"], or a summary as mean(data["train/loss"])'


def parse(text: str) -> Check:
    """The check that ``text`` writes down.

    Raises:
        InputError: it is no check: shows the place under the text, what is
            valid there, and what to write instead.
    """
    # a line break inside a check is as good as a space, and keeps every column in place
    flat = text.replace("\n", " ").replace("\t", " ")
    shift = len(flat) - len(flat.lstrip(" "))
    if not flat.strip():
        raise InputError("the check is empty", fix=f"write for example {EXAMPLE}")
    if len(flat) > MAX_LENGTH:
        raise InputError(
            f"the check has {len(flat)} characters, more than {MAX_LENGTH}",
            fix="write it as several checks",
        )
    parser = _Parser(flat)
    body = flat.strip(" ")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the style of text that is never run
            tree = ast.parse(body, mode="eval").body
    except SyntaxError as error:
        # an end that came too soon is reported without an offset
        column = min((error.offset or len(body) + 1) - 1, len(body)) + shift
        raise parser.error(f"the check does not read: {error.msg}", column) from None
    except (ValueError, MemoryError, RecursionError) as error:
        reason = "nested too deeply" if not isinstance(error, ValueError) else str(error)
        raise parser.error(f"the check does not read: {reason}", shift) from None
    parser.set_lines(body, shift)
    return Check(text.strip(), parser.truth(tree, 0))


EXAMPLE = 'mean(data["train/loss"], -10, 0) < 0.58'


class _Parser:
    """Turns ``ast`` nodes of one text into ours; knows the text, to show the place of an error."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._body = text.encode("utf-8", "surrogatepass")
        self._shift = 0

    def set_lines(self, body: str, shift: int) -> None:
        self._body = body.encode("utf-8", "surrogatepass")
        self._shift = shift

    def error(self, message: str, place: int | ast.AST, fix: str | None = None) -> InputError:
        if isinstance(place, int):
            column = place
        else:
            # ast counts bytes, people count characters
            before = self._body[: getattr(place, "col_offset", 0)]
            column = len(before.decode("utf-8", "replace")) + self._shift
        shown = self._text.encode("utf-8", "replace").decode("utf-8")
        return InputError(
            f"{message}\n    {shown}\n    {' ' * column}^ column {column + 1}",
            fix=fix or f"functions: {', '.join(FUNCTIONS)}; for example {EXAMPLE}",
        )

    def truth(self, node: ast.expr, depth: int) -> Truth:
        self._limit(node, depth)
        match node:
            case ast.BoolOp(op, values):
                name = "and" if isinstance(op, ast.And) else "or"
                return Logic(name, tuple(self.truth(value, depth + 1) for value in values))
            case ast.UnaryOp(ast.Not(), operand):
                return Not(self.truth(operand, depth + 1))
            case ast.Compare(left, ops, comparators):
                names = tuple(self._comparison(op, node) for op in ops)
                operands = tuple(self.number(part, depth + 1) for part in [left, *comparators])
                return Compare(operands, names)
        self.number(node, depth)  # its own error is the better one
        raise self.error(
            "this is a number, not a condition: a check compares", node, f"write {EXAMPLE}"
        )

    def number(self, node: ast.expr, depth: int) -> Numeric:
        self._limit(node, depth)
        match node:
            case ast.Constant():
                return Number(self._literal(node))
            case ast.UnaryOp(ast.USub(), operand):
                return Negate(self.number(operand, depth + 1))
            case ast.UnaryOp(ast.UAdd(), operand):
                return self.number(operand, depth + 1)
            case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
                return Arithmetic(
                    _ARITHMETIC[type(op)],
                    self.number(left, depth + 1),
                    self.number(right, depth + 1),
                )
            case ast.Subscript():
                return self._step(node)
            case ast.Call():
                return self._call(node, depth)
        raise self._not_a_number(node)

    def _limit(self, node: ast.AST, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.error(
                f"nested more than {MAX_DEPTH} deep", node, "write it as several checks"
            )

    def _comparison(self, op: ast.cmpop, node: ast.AST) -> str:
        if type(op) not in _COMPARISONS:
            raise self.error(
                f"{type(op).__name__.lower()!r} is no comparison of checks",
                node,
                f"use one of {' '.join(_COMPARISONS.values())}",
            )
        return _COMPARISONS[type(op)]

    def _literal(self, node: ast.Constant) -> float:
        if type(node.value) not in (int, float):
            raise self._not_a_number(node)
        try:
            value = float(node.value)  # type: ignore[arg-type]
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise self.error("this number is too large", node, "the largest is about 1.8e308")
        return value

    def _not_a_number(self, node: ast.expr) -> InputError:
        match node:
            case ast.Name("data"):
                return self.error("'data' is every metric: name one", node, _STEP_FIX)
            case ast.Name(name):
                return self.error(
                    f"unknown name {name!r}{did_you_mean(name, [*FUNCTIONS, 'data'])}", node
                )
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp(ast.Not()):
                return self.error("a number is expected here, not a condition", node)
            case ast.Constant(value):
                return self.error(f"a number is expected here, not {value!r}", node)
        return self.error(f"{type(node).__name__} is not part of the checks' language", node)

    def _metric(self, node: ast.expr) -> str:
        """The name in ``data["name"]``."""
        match node:
            case ast.Subscript(ast.Name("data"), ast.Constant(str(name))):
                return name
            case ast.Subscript(ast.Name("data"), inside):
                raise self.error(
                    "a metric's name is a text in quotes", inside, 'write data["train/loss"]'
                )
            case ast.Subscript(ast.Name()):
                raise self._not_a_number(node.value)
        raise self.error(
            "a metric is expected here",
            node,
            'write data["train/loss"], without a step',
        )

    def _step(self, node: ast.Subscript) -> Step:
        if isinstance(node.value, ast.Name):
            metric = self._metric(node) if node.value.id == "data" else None
            if metric is None:
                raise self._not_a_number(node.value)
            raise self.error(f"{metric!r} is a whole metric, not a number", node, _STEP_FIX)
        metric = self._metric(node.value)
        match node.slice:
            case ast.Constant(str(digits)):
                bare = digits.removeprefix("-")
                if bare.isascii() and bare.isdecimal() and len(bare) < 19:
                    return Step(metric, int(digits))
                raise self.error(f"step {digits!r} is not a whole number", node.slice, _STEP_FIX)
        return Step(metric, self._whole(node.slice, "a step"))

    def _whole(self, node: ast.expr, what: str) -> int:
        match node:
            case ast.Constant(int(value)) if type(value) is int and value < 10**18:
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int(value))) if (
                type(value) is int and value < 10**18
            ):
                return -value
        raise self.error(f"{what} is a whole number, such as 100 or -10", node)

    def _call(self, node: ast.Call, depth: int) -> Numeric:
        match node.func:
            case ast.Name(name) if name in FUNCTIONS:
                pass
            case ast.Name(name):
                raise self.error(f"unknown function {name!r}{did_you_mean(name, FUNCTIONS)}", node)
            case _:
                raise self.error("only the functions below can be called", node.func)
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                raise self.error("'*' is not part of the checks' language", argument)
        if not node.args:
            raise self.error(f"{name} reads a metric", node, f'write {name}(data["train/loss"])')
        if name in Function.__members__.values() and self._is_metric(node.args[0]):
            return self._aggregate(Function(name), node)
        if name not in ScalarFunction.__members__.values():
            self._metric(node.args[0])
        return self._scalars(ScalarFunction(name), node, depth)

    @staticmethod
    def _is_metric(node: ast.expr) -> bool:
        return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)

    def _scalars(self, function: ScalarFunction, node: ast.Call, depth: int) -> Scalars:
        few = len(node.args) < 2
        if node.keywords or few != (function is ScalarFunction.ABS):
            count = (
                "one number" if function is ScalarFunction.ABS else "a metric or several numbers"
            )
            raise self.error(f"{function} takes {count}", node)
        return Scalars(function, tuple(self.number(part, depth + 1) for part in node.args))

    def _aggregate(self, function: Function, node: ast.Call) -> Aggregate:
        metric = self._metric(node.args[0])
        names = ["start", "end", "ignore_top_p"]
        if function is Function.RATIO_ABOVE:
            names = ["bound", "start", "end"]
        given: dict[str, ast.expr] = dict(zip(names, node.args[1:], strict=False))
        if len(node.args) - 1 > len(names):
            raise self.error(
                f"{function} takes at most {', '.join(names)} after the metric",
                node.args[len(names) + 1],
            )
        for keyword in node.keywords:
            self._keyword(function, names, given, keyword)
        if function is Function.RATIO_ABOVE and "bound" not in given:
            raise self.error(
                "ratio_above needs a bound", node, 'write ratio_above(data["train/loss"], 1.05)'
            )
        start, end = (
            self._whole(given[bound], f"the {bound} of a range") if bound in given else None
            for bound in ("start", "end")
        )
        return Aggregate(
            function,
            metric,
            StepRange(start, end),
            self._share(given["ignore_top_p"]) if "ignore_top_p" in given else 0.0,
            self._plain(given["bound"]) if "bound" in given else None,
        )

    def _keyword(
        self,
        function: Function,
        names: list[str],
        given: dict[str, ast.expr],
        keyword: ast.keyword,
    ) -> None:
        written = keyword.arg or "**"
        name = _KEYWORDS.get(written, "bound" if written == "threshold" else written)
        if name not in names:
            raise self.error(
                f"{function} has no argument {written!r}{did_you_mean(written, names)}",
                keyword.value,
                f"after the metric: {', '.join(names)}",
            )
        if name in given:
            raise self.error(f"{name} is given twice", keyword.value)
        given[name] = keyword.value

    def _share(self, node: ast.expr) -> float:
        share = self._plain(node)
        if not 0.0 <= share <= 1.0:
            raise self.error(
                f"ignore_top_p is a share from 0 to 1, not {share:g}",
                node,
                "write ignore_top_p=0.05 to leave out the largest 5 %",
            )
        return share

    def _plain(self, node: ast.expr) -> float:
        match node:
            case ast.Constant():
                return self._literal(node)
            case ast.UnaryOp(ast.USub(), ast.Constant() as constant):
                return -self._literal(constant)
        raise self.error("a plain number is expected here", node)
