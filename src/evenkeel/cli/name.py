"""``evenkeel name``: read, write, check and explain recipe names."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError
from evenkeel.recipes import name as names
from evenkeel.recipes import name_exception, vocabulary
from evenkeel.recipes.explanation import explain, uneven_split
from evenkeel.recipes.name import RecipeName
from evenkeel.recipes.name_exception import NameException
from evenkeel.recipes.strategy import SIZES, Strategy
from evenkeel.recipes.vocabulary import Vocabulary
from evenkeel.run_paths import SUITES, Repository

EXAMPLES = """\
examples:
  evenkeel name parse grpo-qwen2.5-7b-instruct-4n8g-fsdp2tp4sp.v3 --json
  evenkeel name parse NAME --json | evenkeel name format -
  evenkeel name check tests/test_suites/llm/*.sh
  evenkeel name explain vlm_grpo-qwen2.5-vl-3b-instruct-clevr-1n2g-dtensor2tp1.v1

parse    take names apart
format   write the names whose parts stand in JSON, as parse prints it ('-': on standard input)
check    say what is wrong with names, and which words the vocabulary lacks: a new word is a note,
         one that resembles a known word is an error
explain  say in words what a name claims

A NAME may be the path of a driver or of a recipe. The grammar stands in docs/recipes.md.

exit status of an illegal name: 1 from check; 2 from parse, format and explain
"""


@dataclass(frozen=True)
class _Given:
    """A name as it was given, and what the tree around it says."""

    text: str
    exception: NameException | None
    words: Vocabulary

    def read(self) -> RecipeName:
        declared = self.exception is not None
        return names.parse(self.text, declared=declared, grammar=self.words.grammar)


class _Around:
    """The tree that ``--root`` names, or the one around each name; its words are read once."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._trees: dict[Path, Path | None] = {}
        self._words: dict[Path | None, Vocabulary] = {}

    def tree(self, folder: Path) -> Path | None:
        if self._root is not None:
            return self._root
        if folder not in self._trees:
            try:
                self._trees[folder] = Repository.around(folder).root
            except InputError:
                self._trees[folder] = None
        return self._trees[folder]

    def words(self, tree: Path | None) -> Vocabulary:
        if tree not in self._words:
            self._words[tree] = vocabulary.load(tree)
        return self._words[tree]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=list(_ACTIONS), help="see below")
    parser.add_argument("names", nargs="+", metavar="NAME", help="a name, or the path of a file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--root", type=Path, help="the tree whose vocabulary and drivers count (default: around)"
    )
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Do the action on every name."""
    action = _ACTIONS[args.action]
    return action(args.names, _Around(args.root), args.json)


def _given(text: str, around: _Around) -> _Given:
    """The name in ``text``, with its driver's declaration where that driver can be found."""
    path = Path(text)
    is_path = "/" in text or path.suffix in (".sh", ".yaml", ".yml")
    bare = path.stem if is_path and path.suffix in (".sh", ".yaml", ".yml") else text
    bare = bare.rsplit("/", 1)[-1]
    tree = around.tree(path.parent if is_path and path.parent.is_dir() else Path())
    return _Given(bare, _declaration(path, bare, tree), around.words(tree))


def _declaration(path: Path, bare: str, tree: Path | None) -> NameException | None:
    drivers = [path] if path.suffix == ".sh" and path.is_file() else []
    if not drivers and tree is not None and "/" not in bare and 0 < len(bare) <= names.MAX_LENGTH:
        drivers = [
            tree / SUITES / kind / f"{bare}.sh" for kind in ("llm", "vlm") if "\0" not in bare
        ]
    for driver in drivers:
        if driver.is_file():
            text = driver.read_text(encoding="utf-8", errors="replace")
            return name_exception.find(text, driver)
    return None


def _parse(texts: list[str], around: _Around, as_json: bool) -> int:
    parsed = [_given(text, around).read().to_json() for text in texts]
    if as_json:
        print(json.dumps(parsed[0] if len(parsed) == 1 else parsed, indent=2))
        return EXIT_OK
    for fields in parsed:
        print(fields["name"])
        for key, value in fields.items():
            if key not in ("name", "needs_declaration"):
                print(f"  {key:<14}{_shown(value)}")
    return EXIT_OK


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        stated = [f"{key}={_shown(one)}" for key, one in value.items() if one not in (None, False)]
        return " ".join(stated) or "-"
    if isinstance(value, list):
        return " ".join(value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _format(texts: list[str], around: _Around, as_json: bool) -> int:
    formatted: list[str] = []
    for text in texts:
        text = sys.stdin.read() if text == "-" else text
        if text.lstrip()[:1] in ("{", "["):
            formatted.extend(str(name) for name in _from_json(text))
        else:
            formatted.append(str(_given(text, around).read()))
    if as_json:
        print(json.dumps({"names": formatted}, indent=2))
    else:
        print("\n".join(formatted))
    return EXIT_OK


def _from_json(text: str) -> list[RecipeName]:
    """Names from what ``parse --json`` prints.

    Where ``name`` itself says what the other fields say, its order of words is kept.
    """
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", fix="give what 'name parse --json' prints") from None
    return [_name_of(fields) for fields in (content if isinstance(content, list) else [content])]


def _name_of(fields: Any) -> RecipeName:
    try:
        strategy = fields.get("strategy") or {}
        built = RecipeName.build(
            algo=str(fields["algo"]),
            vlm=bool(fields.get("vlm")),
            model=str(fields["model"]),
            num_nodes=fields.get("num_nodes"),
            gpus_per_node=fields.get("gpus_per_node"),
            strategy=Strategy(
                backend=strategy.get("backend"),
                sp=bool(strategy.get("sp")),
                **{size: strategy.get(size) for size in SIZES},
            ),
            modifiers=tuple(fields.get("modifiers") or ()),
            long=bool(fields.get("long")),
            version=fields.get("version"),
            context=fields.get("context"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not the fields of a name: {error}", fix="give what 'name parse --json' prints"
        ) from None
    try:
        written = names.parse(str(fields["name"]), declared=True)
    except (KeyError, InputError):
        return built
    return written if _same_fields(written, built) else built


def _same_fields(one: RecipeName, other: RecipeName) -> bool:
    left, right = one.to_json(), other.to_json()
    return all(left[key] == right[key] for key in left if key != "name")


def _findings(text: str, around: _Around) -> tuple[str, list[dict[str, Any]]]:
    """The name, and what is wrong with it."""
    given = _given(text, around)
    try:
        name = given.read()
    except names.InvalidNameError as error:
        return given.text, [
            {
                "severity": "error",
                "message": error.reason,
                "position": error.position,
                "expected": error.expected,
                "nearest": error.nearest,
                "fix": error.fix,
            }
        ]
    wrong: list[dict[str, Any]] = []
    if name.needs_declaration and given.exception is None:
        wrong.append(
            _finding(
                "the name states no allocation, and no driver declares why",
                f"write in its driver: {name_exception.SYNTAX}",
            )
        )
    wrong.extend(
        _finding(unknown.message, unknown.fix, error=unknown.likely_slip)
        for unknown in given.words.unknown_words(name)
    )
    if uneven := uneven_split(name):
        wrong.append(_finding(uneven, "correct the sizes or the allocation"))
    return given.text, wrong


def _finding(message: str, fix: str, *, error: bool = True) -> dict[str, Any]:
    return {
        "severity": "error" if error else "note",
        "message": message,
        "position": None,
        "expected": None,
        "nearest": None,
        "fix": fix,
    }


def _is_legal(findings: list[dict[str, Any]]) -> bool:
    return all(finding["severity"] == "note" for finding in findings)


def _check(texts: list[str], around: _Around, as_json: bool) -> int:
    judged = [_findings(text, around) for text in texts]
    if as_json:
        rows = [{"name": n, "legal": _is_legal(wrong), "findings": wrong} for n, wrong in judged]
        print(json.dumps({"names": rows}, indent=2))
    else:
        for name, wrong in judged:
            print(f"{name}: legal" if _is_legal(wrong) else name)
            for finding in wrong:
                _print_finding(finding)
    return EXIT_FINDING if not all(_is_legal(wrong) for _, wrong in judged) else EXIT_OK


def _print_finding(finding: dict[str, Any]) -> None:
    if finding["position"] is not None:
        expected = finding["expected"]
        print(" " * (finding["position"] - 1) + f"^ {finding['message']}; expected {expected}")
    else:
        print(f"  {'note: ' * (finding['severity'] == 'note')}{finding['message']}")
    print(f"  fix: {finding['fix']}")


def _explain(texts: list[str], around: _Around, as_json: bool) -> int:
    explained = []
    for text in texts:
        given = _given(text, around)
        name = given.read()
        rows = explain(name, given.words, given.exception)
        explained.append((name, rows))
    if as_json:
        objects = [{"name": str(name), "explanation": dict(rows)} for name, rows in explained]
        print(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2))
        return EXIT_OK
    for name, rows in explained:
        width = max(len(heading) for heading, _ in rows)
        print(name)
        for heading, sentence in rows:
            print(f"  {heading:<{width}}  {sentence}")
    return EXIT_OK


_ACTIONS: dict[str, Callable[[list[str], _Around, bool], int]] = {
    "parse": _parse,
    "format": _format,
    "check": _check,
    "explain": _explain,
}
