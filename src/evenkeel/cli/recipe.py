"""``evenkeel recipe``: what a recipe resolves to, where each value comes from, and if it fits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel.cli.command_parser import add_action
from evenkeel.errors import EXIT_OK, InputError
from evenkeel.run_paths import Repository

if TYPE_CHECKING:
    from evenkeel.recipes.config import ResolvedRecipe

OVERRIDES = """\
overrides:
  key=value      set a key that the recipe has; the value is YAML: policy.optimizer.betas=[0.9,0.98]
  ++key=value    set or add a key, where free keys are allowed: ++policy.model_config.rope_theta=1e6
  +key=value     add a key that is not there yet
  ~key           delete a key: what the schema says by default then holds
"""

SHOW = f"""\
Print a recipe with everything that it inherits and what overrides make of it, as YAML; with
--origin each key, its value, and the file and line that said so.

{OVERRIDES}
examples:
  evenkeel recipe show sft-llama-0.9m-1n1g-fsdp2tp1
  evenkeel recipe show sft-llama-0.9m-1n1g-fsdp2tp1 sft.max_num_steps=20 --origin
  evenkeel recipe show path/to/recipe.yaml --json
"""

EPILOG = """\
examples:
  evenkeel recipe show sft-llama-0.9m-1n1g-fsdp2tp1 --origin
  evenkeel recipe fit sft-llama3.1-8b-1n8g-fsdp2tp2sp --gpu a100-80gb

'evenkeel recipe ACTION --help' shows how to override keys, and more examples.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares ``show`` and ``fit``."""
    from evenkeel.cli import recipe_fit

    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = add_action(actions, "show", "print the resolved recipe", SHOW)
    show.add_argument("recipe", metavar="NAME|PATH", help="a recipe's name, or a YAML file")
    show.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="see below")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.add_argument(
        "--origin", action="store_true", help="print key, value and the place that said so"
    )
    show.add_argument("--root", type=Path, metavar="DIR", help="the repository (default: around .)")
    show.set_defaults(act=_show)
    line = "say what each GPU will hold, and whether its memory is enough"
    fit = add_action(
        actions, "fit", line, f"{recipe_fit.ABOUT}\n{OVERRIDES}\n{recipe_fit.EXAMPLES}"
    )
    recipe_fit.add_arguments(fit)


def run(args: argparse.Namespace) -> int:
    """Carries out the action."""
    act: Callable[[argparse.Namespace], int] = args.act
    return act(args)


def recipe_path(recipe: str, root: Path | None) -> Path:
    """The YAML file that a name or path means.

    Raises:
        InputError: there is none.
    """
    if recipe.endswith((".yaml", ".yml")) or "/" in recipe:
        path = Path(recipe)
        if not path.exists():
            raise InputError(f"there is no file {recipe}", fix="pass a recipe's name or its YAML")
        return path
    repository = Repository.around(Path.cwd()) if root is None else Repository(root)
    path = repository.find_recipe(recipe)
    # shorter in messages, and clickable, where the repository is the current folder
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _show(args: argparse.Namespace) -> int:
    from evenkeel.recipes import config

    resolved = config.load(recipe_path(args.recipe, args.root), args.overrides)
    if args.origin:
        print(_origins_as_json(resolved) if args.json else _origins_as_text(resolved))
    elif args.json:
        print(json.dumps(resolved.values, indent=2))
    else:
        import yaml

        print(f"# {resolved.name}, fingerprint {resolved.fingerprint}")
        print(yaml.safe_dump(resolved.values, sort_keys=False, allow_unicode=True), end="")
    return EXIT_OK


def _value_at(values: dict[str, Any], dotted: str) -> Any:
    """The value at a dotted key; keys may have dots of their own."""
    if dotted in values:
        return values[dotted]
    for end in (index for index, letter in enumerate(dotted) if letter == "."):
        section = values.get(dotted[:end])
        if isinstance(section, dict):
            return _value_at(section, dotted[end + 1 :])
    return None


def _origins_as_text(resolved: ResolvedRecipe) -> str:
    rows = [
        (key, json.dumps(_value_at(resolved.values, key), ensure_ascii=False), str(origin))
        for key, origin in resolved.origins.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    widths[1] = min(widths[1], 40)  # one long text does not push every place off the screen
    return "\n".join(
        f"{key:<{widths[0]}}  {value:<{widths[1]}}  {place}" for key, value, place in rows
    )


def _origins_as_json(resolved: ResolvedRecipe) -> str:
    places = {
        key: {
            "value": _value_at(resolved.values, key),
            "path": origin.path,
            "line": origin.line,
            "override": origin.override,
        }
        for key, origin in resolved.origins.items()
    }
    return json.dumps(places, indent=2)
