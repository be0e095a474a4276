"""docs/lint.md has every rule as it is declared."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from evenkeel.recipes.lint import engine
from evenkeel.recipes.lint.registry import LOOKS, RULES

ROOT = Path(__file__).parents[4]
BEGIN = "<!-- rules: written from the rules' declarations; a test holds them equal -->\n"
END = "<!-- end of rules -->\n"


def table() -> str:
    rows = ["| code | what | why | what to do |\n| --- | --- | --- | --- |\n"]
    for code, rule in sorted(RULES.items()):
        repairs = " (repairs)" if rule.fixable else ""
        cells = (f"{code}{repairs}", rule.title, rule.reason, rule.fix)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return f"\n{''.join(rows)}\n"


def test_the_table_of_rules_is_that_of_the_code() -> None:
    text = (ROOT / "docs/lint.md").read_text(encoding="utf-8")
    written = text.split(BEGIN)[1].split(END)[0]
    assert written == table()


def test_every_rule_has_a_function_that_looks_and_words_that_help() -> None:
    looked_for = {code for _, codes, _ in LOOKS for code in codes}
    assert engine.FAMILIES
    assert {code for code in RULES if not code.startswith("EK9")} == looked_for
    for rule in RULES.values():
        assert re.fullmatch(r"EK[1-9]\d\d", rule.code)
        assert rule.title and not rule.title.endswith(".")
        assert rule.reason.endswith(".")


def test_hooks_take_the_files_that_the_linter_reads() -> None:
    for name in (".pre-commit-hooks.yaml", ".pre-commit-config.yaml"):
        content = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        hooks = content["repos"][0]["hooks"] if isinstance(content, dict) else content
        patterns = {hook["files"] for hook in hooks if "lint" in hook["id"]}
        (pattern,) = patterns
        for path, wanted in (
            ("tests/test_suites/llm/sft-x-1n8g-fsdp2tp1.sh", True),
            ("tests/test_suites/nightly.txt", True),
            ("examples/configs/recipes/vlm/x.yaml", True),
            ("examples/configs/sft.yaml", True),
            ("src/evenkeel/errors.py", False),
            ("tests/test_suites/common.env", False),
        ):
            assert bool(re.match(pattern, path)) is wanted
