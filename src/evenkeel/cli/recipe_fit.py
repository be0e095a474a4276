"""``evenkeel recipe fit``: what each GPU will hold, and whether it can."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.errors import EXIT_FINDING, EXIT_INPUT, EXIT_OK, EvenkeelError, InputError
from evenkeel.recipes.memory_fit import cards
from evenkeel.run_paths import Repository

if TYPE_CHECKING:
    from evenkeel.recipes.memory_fit.fit import Fit, Models
    from evenkeel.recipes.memory_fit.mends import Mend

ABOUT = """\
Say what each GPU will hold of a recipe while it trains, part by part, and whether a card has so
much memory; where it has not, say what would make it fit. Nothing is run.
"""

EXAMPLES = """\
examples:
  evenkeel recipe fit sft-llama3.1-8b-1n8g-fsdp2tp2sp
  evenkeel recipe fit sft-llama3.1-8b-1n8g-fsdp2tp2sp sft.val_micro_batch_size=4 --gpu a100-80gb
  evenkeel recipe fit --suite nightly --suite release
  evenkeel recipe fit path/to/recipe.yaml --memory 48 --json

Above 90 % of the card a recipe is tight. The formulas and how near they are: docs/memory.md.

exit status: 0 all fit, tightly or not; 1 one does not; 2 bad input, or no trainer takes a recipe
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "items",
        nargs="*",
        metavar="NAME|PATH|OVERRIDE",
        help="recipes, and overrides for all of them",
    )
    parser.add_argument(
        "--suite", action="append", default=[], metavar="NAME", help="all recipes of a suite"
    )
    parser.add_argument(
        "--gpu", metavar="CARD", help=f"{', '.join(cards.CARDS)} (default {cards.DEFAULT})"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="memory of another card; with --gpu, how much of that card's is to be used",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="the repository (default: around .)"
    )
    parser.set_defaults(act=run)


def run(args: argparse.Namespace) -> int:
    """Count and print; 1 where a recipe does not fit."""
    from evenkeel.recipes.memory_fit.fit import Verdict

    overrides = [item for item in args.items if "=" in item or item.startswith("~")]
    named = [item for item in args.items if item not in overrides]
    recipes = [*named, *_of_suites(args)]
    if not recipes:
        raise InputError("no recipe is named", fix="pass a name, a YAML file, or --suite NAME")
    card = cards.card(args.gpu, args.memory)
    not_trained = set(_of_suites(args, is_disabled=True)) - set(named)
    found: list[tuple[Fit, Models]] = []
    errors: list[EvenkeelError] = []
    for recipe in dict.fromkeys(recipes):
        try:
            is_planned = recipe in not_trained
            found.append(_fit(recipe, overrides, card, args.root, is_planned=is_planned))
        except EvenkeelError as error:
            if len(recipes) == 1:
                raise
            errors.append(error)
    _print(found, errors, as_json=args.json)
    if errors:
        return EXIT_INPUT
    wrong = any(one.verdict is Verdict.DOES_NOT_FIT for one, _ in found)
    return EXIT_FINDING if wrong else EXIT_OK


def _of_suites(args: argparse.Namespace, *, is_disabled: bool = False) -> Iterator[str]:
    """Recipes of the suites; with ``is_disabled`` of those alone whose recipes are not trained."""
    from evenkeel.recipes import suite

    for name in args.suite:
        repository = Repository(args.root) if args.root else Repository.around(Path.cwd())
        listing = suite.find(repository.root, name)
        if listing.is_disabled or not is_disabled:
            yield from (entry.name for entry in listing.entries)


def _fit(
    recipe: str,
    overrides: Sequence[str],
    card: cards.Card,
    root: Path | None,
    *,
    is_planned: bool,
) -> tuple[Fit, Models]:
    """Its numbers; of a recipe that ``is_planned`` also where the trainers refuse it so far."""
    from evenkeel.cli.recipe import recipe_path
    from evenkeel.recipes import config
    from evenkeel.recipes.memory_fit import fit, refusals
    from evenkeel.recipes.support import check_supported

    path = recipe_path(recipe, root)
    resolved = config.load(path, overrides)
    try:
        if not is_planned:
            check_supported(resolved)
        models = fit.models_of(resolved.recipe, _models_dir(path, root))
        if not is_planned:
            refusals.check_trainable(resolved.recipe, models)
        return fit.fit(resolved.name, resolved.recipe, models, card), models
    except InputError as error:
        if error.path not in (None, config.COMMAND_LINE):
            raise
        place = f"{path} with {' '.join(overrides)}" if overrides else str(path)
        raise InputError(error.message, path=place, fix=error.fix) from error


def _models_dir(path: Path, root: Path | None) -> Path:
    """Of the tree that a recipe lies in, else of the one around the current folder."""
    for place in (root, path, Path.cwd()):
        if place is not None:
            try:
                return Repository.around(place).models_dir
            except InputError:
                continue
    return path.parent


def _print(
    found: Sequence[tuple[Fit, Models]], errors: Sequence[EvenkeelError], *, as_json: bool
) -> None:
    from evenkeel.report import memory_text

    mended = [(one, *_mends(one, models)) for one, models in found]
    if as_json:
        recipes = [
            {
                **one.to_json(),
                "mends": [
                    {
                        "overrides": mend.overrides,
                        "peak_gib": round(mend.result.peak / cards.GIB, 3),
                        "verdict": mend.result.verdict.value,
                    }
                    for mend in mends
                ],
                "larger_gpu": None if larger is None else larger.card.name,
            }
            for one, mends, larger in mended
        ]
        failed = [str(error) for error in errors]
        print(json.dumps({"schema_version": 1, "recipes": recipes, "errors": failed}, indent=2))
        return
    out = memory_text.console()
    if len(mended) == 1 and not errors:
        memory_text.print_fit(out, *mended[0])
        return
    if mended:
        memory_text.print_fits(out, [one for one, _, _ in mended])
    for one, mends, larger in mended:
        if mends or larger is not None:
            memory_text.print_verdict(out, one, mends, larger)
    for error in errors:
        out.print(f"error: {error}", markup=False, soft_wrap=True)


def _mends(one: Fit, models: Models) -> tuple[list[Mend], Fit | None]:
    from evenkeel.recipes.memory_fit import mends
    from evenkeel.recipes.memory_fit.fit import Verdict

    if one.verdict is not Verdict.DOES_NOT_FIT:
        return [], None
    return mends.mends(one, models), mends.larger_card(one, models)
