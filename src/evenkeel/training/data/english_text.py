"""English text that every Python brings along: its help topics and its modules' docstrings.

Real prose and code for language modelling without a download. It is the text of the installed
interpreter, so another Python version means another text; ``run.json`` records the version.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from evenkeel.errors import MachineError
from evenkeel.recipes.schema import Data
from evenkeel.training.data.hash_order import permutation
from evenkeel.training.data.records import TextStream
from evenkeel.training.data.registry import num_samples

VALIDATION_SHARE = 0.1
_SPLIT_KEY = 0x7E47

_DOCUMENTED = (
    "argparse", "ast", "calendar", "collections", "configparser", "datetime", "decimal",
    "difflib", "doctest", "fractions", "functools", "heapq", "inspect", "ipaddress", "logging",
    "mailbox", "optparse", "pathlib", "pickle", "random", "statistics", "string", "subprocess",
    "tarfile", "tempfile", "textwrap", "threading", "typing", "unittest.mock", "urllib.parse",
    "urllib.request", "uuid", "zipfile",
)  # fmt: skip


def open_records(data: Data, split: str, *, docstrings: bool = True) -> TextStream:
    """The text of a split; whole documents are held out, so no passage is in both.

    Args:
        data: the number of samples is a number of token windows.
        split: ``train`` or ``val``.
        docstrings: also read docstrings, not only the help topics.
    """
    documents = [*_topics(), *(_docstrings() if docstrings else ())]
    order = permutation(len(documents), _SPLIT_KEY)
    num_held_out = round(len(documents) * VALIDATION_SHARE)
    chosen = order[:num_held_out] if split == "val" else order[num_held_out:]
    return TextStream(tuple(documents[index] for index in chosen), num_samples(data, split))


@lru_cache(maxsize=1)
def _topics() -> tuple[str, ...]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MachineError(
            "this Python came without its help topics (pydoc_data)",
            fix="install the full standard library, or choose another data.dataset",
        ) from error
    return tuple(topics[name] for name in sorted(topics))


@lru_cache(maxsize=1)
def _docstrings() -> tuple[str, ...]:
    return tuple(text for module in _DOCUMENTED for text in _docstrings_of(module))


def _docstrings_of(module: str) -> Iterator[str]:
    """One document per module: its docstrings in the order of the file, if its source is here."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, holders)]
    joined = "\n\n".join(text for text in texts if text)
    if joined:
        yield joined
