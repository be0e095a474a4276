"""The walls of the house: which room may import which, and what the control side never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "evenkeel"

FLOOR = {"errors", "atomic_file", "run_paths", "run_record", "run_lock", "crash_log"}
CONTROL = {"recipes", "metrics", "launch", "convergence", "report"}
# room → rooms of ours it may import besides itself and the floor
MAY_IMPORT: dict[str, set[str]] = {
    "recipes": {"metrics"},  # the linter reads checks with the expression parser
    "metrics": set(),
    "launch": {"recipes", "metrics"},
    "convergence": {"recipes", "metrics"},
    "report": CONTROL,
    "training": {
        "recipes.config",
        "recipes.model_support",
        "recipes.pipeline_stages",
        "recipes.schema",
        "recipes.support",
        "metrics.series",
    },
    "cli": CONTROL,
}


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of each import, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    wrong = []
    for path in sorted((SOURCE / room).rglob("*.py")):
        for line, module in imports_of(path):
            parts = module.split(".")
            if parts[0] != "evenkeel" or len(parts) < 2 or parts[1] in FLOOR | {room}:
                continue
            if parts[1] not in MAY_IMPORT[room] and ".".join(parts[1:3]) not in MAY_IMPORT[room]:
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {module}")
    assert wrong == []


def test_heavy_libraries_have_one_door() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        for line, module in imports_of(path):
            library = module.split(".")[0]
            if library in {"torch", "transformers", "megatron"} and relative.parts[0] != "training":
                wrong.append(f"{relative}:{line} imports {module}")
            if library == "nemo_run" and relative != Path("launch/executor.py"):
                wrong.append(f"{relative}:{line} imports {module}")
    assert wrong == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from evenkeel.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'nemo_run', 'transformers', 'numpy', 'scipy', 'rich', 'omegaconf'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
