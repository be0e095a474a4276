"""What real bash computes from a block is what the reader says, over generated safe blocks.

Bash runs only text that these strategies made: assignments of constants, quotes and arithmetic.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.recipes import config_block

BASH = shutil.which("bash") or "/bin/bash"
NAMES = ["NUM_NODES", "MAX_STEPS", "A", "B_2"]
SAFE = "abcXYZ019 _-+.,:/%@^"
BINARY = "+ - * / % ** << >> < > <= >= == != & ^ | && ||"
settings.register_profile("bash", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def arithmetic(names: Sequence[str]) -> st.SearchStrategy[str]:
    """Integer expressions over constants and the names set so far."""
    constants = st.one_of(
        st.integers(0, 300).map(str),
        st.sampled_from(["010", "0x1F", "2#101", "36#z", "64#_", "007", "9223372036854775807"]),
    )
    leaves = constants
    if names:
        some = st.sampled_from(list(names))
        leaves = constants | some | some.map("${{{}}}".format) | some.map("${}".format)
    space = st.sampled_from(["", " ", "  "])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, space, st.sampled_from(BINARY.split(" ")), space, inner).map("".join),
            inner.map("({})".format),
            st.tuples(st.sampled_from("-+!~"), space, inner).map("".join),
            st.tuples(inner, st.just(" ? "), inner, st.just(" : "), inner).map("".join),
        ),
        max_leaves=6,
    )


@st.composite
def blocks(draw: st.DrawFn) -> str:
    """A block of assignments, one or several on a line, with comments and quotes."""
    lines: list[str] = []
    known: list[str] = []
    numbers: list[str] = []
    for _ in range(draw(st.integers(1, 6))):
        name = draw(st.sampled_from(NAMES))
        safe = st.text(SAFE, max_size=8)
        options = [
            safe.map("'{}'".format),
            safe.map('"{}"'.format),
            st.text("abc019_-+.,:/%@^=", max_size=6),
            safe.map('${{UNSET:-"{}"}}'.format),
            safe.map('"pre${{UNSET:-{}}}post"'.format),
        ]
        if known:
            options += [st.sampled_from(known).map("{0}$".format).map("${}".format)]
            options += [st.sampled_from(known).map('"<${{{}}}>\\$ \\\\"'.format)]
            options += [st.sampled_from(known).map("${{{}:-7}}x\\ y".format)]
        is_number = draw(st.booleans())
        value = f"$(({draw(arithmetic(numbers))}))" if is_number else draw(st.one_of(options))
        export = draw(st.sampled_from(["", "", "export "]))
        end = draw(st.sampled_from(["", "  # NUM=1; $x", " ;", "; C=1 D=$((2*3))"]))
        lines.append(f"{draw(st.sampled_from(['', '  ']))}{export}{name}={value}{end}")
        known = [*known, name]
        numbers = [*numbers, name] if is_number else [n for n in numbers if n != name]
    return "\n".join(lines)


def by_bash(block: str) -> dict[str, str] | None:
    """The variables after bash read ``block``; None where it refused a line."""
    names = [*NAMES, "C", "D"]
    shown = "".join(f'[ -z "${{{n}+x}}" ] || printf \'%s\\0%s\\0\' {n} "${{{n}}}"\n' for n in names)
    script = f"set -eu\n{block}\n{shown}"
    done = subprocess.run(
        [BASH, "--noprofile", "--norc", "-c", script],
        capture_output=True,
        env={"PATH": "", "LC_ALL": "C"},
        timeout=20,
        check=False,
    )
    if done.returncode:
        return None
    fields = done.stdout.decode().split("\0")[:-1]
    return dict(zip(fields[::2], fields[1::2], strict=True))


def by_us(block: str) -> dict[str, str] | None:
    text = f"# ===== BEGIN CONFIG =====\n{block}\n# ===== END CONFIG =====\n"
    try:
        raw = config_block.scan(text)
    except InputError:
        return None
    return {name: str(value) for name, value in raw.variables.items()}


@settings(settings.get_profile("bash"), max_examples=80)
@given(blocks())
@example("A=$((-7/2))\nB_2=$((-7%2))\nMAX_STEPS=$((7/-2))")
@example("A=-1\nB_2=$((5-$A)) NUM_NODES=$((2**3**2))\nMAX_STEPS=$((-2**2))")
@example("A=$((1?2?3:4:5))\nB_2=$((0&&1/0))\nMAX_STEPS=$((1||1/0))\nNUM_NODES=$((1?2:1/0))")
@example("A=1+1\nB_2=$((A*2))\nMAX_STEPS=$(($A*2))\nNUM_NODES=$((${A}*(${UNSET:-3})))")
@example("A=a\\\nb\nB_2=\"c\\\nd\"\nMAX_STEPS='e\\\nf'\nNUM_NODES=$((1 +\n 2))")
@example("A=010\nB_2=$((A))\nMAX_STEPS=$((0x10+2#11))\nNUM_NODES=${A}")
@example("A=x#y # comment\nB_2=#none\nMAX_STEPS=a=b\nNUM_NODES=3;")
@example('A="a\'b"\'c"d\'\\\'\\"\nB_2="\\a\\$A\\`"\nMAX_STEPS=$\nNUM_NODES=a$/b')
@example("readonly A=3 B_2=4\nexport A\nNUM_NODES=$A$B_2")
@example("A=$(( $((1+2)) * $(( 3 )) ))\nB_2=a:b\nMAX_STEPS={a,b}\nNUM_NODES=*")
def test_our_values_are_those_of_bash(block: str) -> None:
    ours = by_us(block)
    theirs = by_bash(block)
    if theirs is None:
        assert ours is None  # what bash refuses, nobody guesses
    elif ours is not None:  # a value over 64 bits is an error here, a wrapped number there
        assert ours == theirs


PLANTED = Path(tempfile.gettempdir()) / f"evenkeel-planted-{os.getpid()}"
ATTACKS = [
    attack.replace("{}", f"touch {PLANTED}")
    for attack in (
        "$({})",
        "`{}`",
        "; {}",
        "&& {}",
        "| {}",
        "<({})",
        "$((a[$({})]))",
        "${X:-$({})}",
        '"$({})"',
        "\n{}\n",
        "\n# ===== END CONFIG =====\n{}",
    )
]
FRAGMENTS = ["NUM_NODES=", "1", "$((", "))", "${", "}", '"', "'", "\\", "\n", "#", " ", "A", "+"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(FRAGMENTS + ATTACKS) | st.text(max_size=5), max_size=12))
def test_no_text_runs_anything_crashes_or_hangs(parts: list[str]) -> None:
    text = f"# ===== BEGIN CONFIG =====\n{''.join(parts)}\n# ===== END CONFIG =====\n"
    try:
        found = config_block.scan(text)
    except InputError as error:
        assert error.fix
    else:
        assert all(line.line >= 1 and line.column >= 1 for line in found.assignments)
    assert not PLANTED.exists()
