"""Resolving the interpolations of a recipe: ours against OmegaConf, results compared equal.

    uv run python benchmarks/interpolation.py [--recipes 200] [--rounds 5]

A recipe here has 200 values of which 20 interpolate, as those of a framework's base files do. The
linter resolves 10,000 of them; the ratio says why it does not go through OmegaConf.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from omegaconf import OmegaConf

from evenkeel.recipes.interpolation import Interpolator


def recipe() -> dict[str, Any]:
    values: dict[str, Any] = {
        f"section{number}": {f"key{key}": number * key for key in range(20)} for number in range(9)
    }
    links = {f"link{number}": f"${{section{number % 9}.key{number}}}" for number in range(18)}
    links["text"] = "${links.link1}-${section2.key3}"
    links["chain"] = "${links.text}"
    return {**values, "links": links}


def ours(values: dict[str, Any]) -> dict[str, Any]:
    def refuse(dotted: str, message: str) -> None:
        raise ValueError(f"{dotted}: {message}")

    own = deepcopy(values)
    Interpolator(own, refuse).resolve([f"links.{key}" for key in own["links"]])
    return own


def omegaconf(values: dict[str, Any]) -> Any:
    return OmegaConf.to_container(OmegaConf.create(values), resolve=True)


def fastest(side: Callable[[dict[str, Any]], Any], recipes: int, rounds: int) -> float:
    values, best = recipe(), float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(recipes):
            side(values)
        best = min(best, time.process_time() - start)
    return best / recipes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    assert ours(recipe()) == omegaconf(recipe())
    own = fastest(ours, arguments.recipes, arguments.rounds)
    theirs = fastest(omegaconf, arguments.recipes, arguments.rounds)
    print(f"ours      {own * 1e3:6.2f} ms of processor time a recipe")
    print(f"OmegaConf {theirs * 1e3:6.2f} ms")
    print(f"ratio     {theirs / own:6.1f}")


if __name__ == "__main__":
    main()
