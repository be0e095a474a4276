from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from omegaconf import OmegaConf

from evenkeel.recipes.interpolation import Interpolator

TREE: dict[str, Any] = {
    "a": 1,
    "name": "tiny",
    "none": None,
    "flag": True,
    "s": {"x": 2.5, "y": "${a}", "list": [1, "${s.x}", {"z": "${name}"}], "deep": {"k": "v"}},
}


def resolve(text: Any, tree: dict[str, Any] = TREE) -> tuple[Any, list[str]]:
    values = {**tree, "t": {"here": text, "sibling": 7, "key": "k"}}
    problems: list[str] = []
    keys = [*(["s.y", "s.list"] if tree is TREE else []), "t.here"]
    copied = deepcopy(values)
    Interpolator(copied, lambda _, message: problems.append(message)).resolve(keys)
    return copied["t"]["here"], problems


@pytest.mark.parametrize(
    "text",
    [
        "${a}", "${s.x}", "${s.y}", "x-${a}-${name}", "${.sibling}", "${..name}", "${s.list[1]}",
        "${s.list.0}", "${s.list[2].z}", "${s.deep}", "${s.list}", "${s[deep].k}", "${flag}!",
        "${none}", "${s.deep.k}", "${s.deep.${t.key}}", "\\${a}", "${oc.env:NOT_SET, 5}",
        ["${a}", "${name}"], "${ a }", "a$b", "plain",
    ],
)  # fmt: skip
def test_it_means_what_omegaconf_says(text: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    loaded = OmegaConf.create({**TREE, "t": {"here": text, "sibling": 7, "key": "k"}})
    expected = OmegaConf.to_container(loaded, resolve=True)
    assert isinstance(expected, dict)
    assert resolve(text) == (expected["t"]["here"], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${mul:2, 3}", 6),
        ("${mul:${a}, ${s.x}}", 2.5),
        ("${div:9, 3}", 3),
        ("${div:9, 2}", 4.5),
        ("${max:1,${t.sibling}}", 7),
        ("${add:1,${mul:2,3}}", 7),
    ],
)
def test_functions(text: str, expected: Any) -> None:
    assert resolve(text) == (expected, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${b}", "there is no 'b'"),
        ("${s.z}", "s has no 'z'"),
        ("${a.z}", "a has no 'z'"),
        ("${t.here}", "interpolation cycle: t.here → t.here"),
        ("${t}", "interpolation cycle"),
        ("${mul:x, 2}", "mul:x, 2 has no value: 'x' is not a number"),
        ("${div:1, 0}", "has no value"),
        ("${add:[1}", "cannot read the arguments of add"),
        ("${oc.env:NOT_SET}", "the environment has no variable NOT_SET"),
        ("${a", "unclosed"),
        ("${}", "names no key"),
        ("x ${s.deep}", "is a section or list inside a text"),
        ("${.......a}", "goes above the top level"),
    ],
)
def test_what_has_no_value_stays_text(
    text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    value, problems = resolve(text)
    assert value == text
    assert len(problems) == 1 and words in problems[0]


def test_a_chain_has_an_end() -> None:
    tree: dict[str, Any] = {f"v{n}": f"${{v{n + 1}}}" for n in range(1000)} | {"v1000": 1}
    assert resolve("${v990}", tree) == (1, [])
    assert resolve("${v0}", tree) == ("${v0}", ["a chain of more than 50 interpolations"])


def test_interpolations_do_not_explode() -> None:
    tree: dict[str, Any] = {"v0": "x" * 10}
    tree |= {f"v{n}": f"${{v{n - 1}}}" * 10 for n in range(1, 12)}
    assert "multiply beyond" in resolve("${v11}", tree)[1][0]
    tree = {"v0": [1] * 10} | {f"v{n}": [f"${{v{n - 1}}}"] * 10 for n in range(1, 12)}
    assert "multiply beyond" in resolve("${v11}", tree)[1][0]
