"""Memory of recipes for people: a table of one recipe's phases, or one line per recipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evenkeel.recipes.memory_fit.cards import GIB
from evenkeel.recipes.memory_fit.fit import Fit, Stage, Verdict
from evenkeel.recipes.memory_fit.mends import Mend
from evenkeel.report.terminal import PLAIN_WIDTH, print_table

_STYLES = {
    Verdict.FITS: "bold green",
    Verdict.TIGHT: "bold yellow",
    Verdict.DOES_NOT_FIT: "bold red",
}
_COLOURS = {
    "weights": "blue",
    "reference": "bright_blue",
    "teacher": "bright_blue",
    "optimizer": "cyan",
    "gradients": "magenta",
    "gathered": "bright_cyan",
    "activations": "green",
    "logits": "yellow",
    "kv_cache": "bright_green",
    "vllm": "bright_magenta",
    "overhead": "white",
}
"""Parts in the order in which they are listed, and their colours in the bar."""
_BAR = 40
_SHORT_BAR = 16
_PLAIN_WIDTH = PLAIN_WIDTH + 24


def console() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def print_fit(out: Console, found: Fit, mends: Sequence[Mend], larger: Fit | None) -> None:
    """One recipe: its layout, a table per kind of stage, the verdict and what would mend it."""
    out.print(f"[bold]{escape(found.name)}[/]: {escape(_layout(found))}", soft_wrap=True)
    for stage in found.stages:
        if len(found.stages) > 1:
            out.print(f"\npipeline stage {stage.index}: {stage.num_layers} layers")
        out.print(_phases(stage))
        out.print(_bar(stage, found.card.memory, _BAR))
    out.print()
    print_verdict(out, found, mends, larger)


def print_verdict(out: Console, found: Fit, mends: Sequence[Mend], larger: Fit | None) -> None:
    """The verdict in a line, and what would make it another one."""
    where = f"stage {found.worst.index}, " if len(found.stages) > 1 else ""
    out.print(
        f"[{_STYLES[found.verdict]}]{found.verdict.value}[/] {escape(found.name)}: "
        f"{_gib(found.peak)} of {_gib(found.card.memory)} GiB ({found.share:.0%}), "
        f"{where}phase {found.worst.peak.name}",
        soft_wrap=True,
    )
    if not found.engine_fits and found.vllm_needs is not None:
        out.print(
            f"  vLLM needs {_gib(found.vllm_needs)} GiB for its weights and one sequence, more "
            "than its share of the card; raise policy.generation.tensor_parallel_size",
            soft_wrap=True,
        )
    if found.verdict is not Verdict.DOES_NOT_FIT:
        return
    for mend in mends:
        result = mend.result
        out.print(
            f"  {result.verdict.value} with {' '.join(mend.overrides)}: {_gib(result.peak)} GiB",
            markup=False,
            soft_wrap=True,
        )
    if larger is not None:
        whole = "a whole " if larger.card.name == found.card.part_of else ""
        out.print(
            f"  {larger.verdict.value} as it is on {whole}{larger.card.name}: {larger.share:.0%}"
        )
    if not mends and larger is None:
        out.print("  no change of the layout alone makes it fit, nor does any known card")


def print_fits(out: Console, fits: Sequence[Fit]) -> None:
    """One line per recipe."""
    print_table(out, fits_table(fits), plain_width=_PLAIN_WIDTH)


def fits_table(fits: Sequence[Fit]) -> Table:
    """One line per recipe: the largest stage at its peak, in GiB."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("recipe", overflow="fold")
    for column in ("states", "activ.", "logits", "other", "peak"):
        table.add_column(column, justify="right")
    table.add_column("phase")
    table.add_column("of the card")
    table.add_column("verdict")
    for found in fits:
        parts = found.worst.peak.parts
        states = sum(
            parts.get(name, 0.0)
            for name in ("weights", "gradients", "optimizer", "reference", "teacher")
        )
        named = states + parts.get("activations", 0.0) + parts.get("logits", 0.0)
        table.add_row(
            escape(found.name),
            _gib(states),
            _gib(parts.get("activations", 0.0)),
            _gib(parts.get("logits", 0.0)),
            _gib(found.peak - named),
            _gib(found.peak),
            found.worst.peak.name,
            f"{_bar(found.worst, found.card.memory, _SHORT_BAR)} {found.share:>4.0%}",
            f"[{_STYLES[found.verdict]}]{found.verdict.value}[/]",
        )
    return table


def _layout(found: Fit) -> str:
    policy, layout = found.recipe.policy, found.layout
    sizes = {
        "dp": layout.dp,
        "tp": layout.tp,
        "pp": layout.pp,
        "cp": layout.cp,
        "ep": layout.ep,
    }
    spread = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one rank"
    return (
        f"{policy.backend.value} {policy.precision.value}, {spread}, micro-batches of "
        f"{policy.train_micro_batch_size} x {policy.max_total_sequence_length} tokens, "
        f"{layout.world_size} x {found.card.name}"
    )


def _phases(stage: Stage) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("GiB of each GPU")
    for phase in stage.phases:
        table.add_column(phase.name, justify="right")
    held = [name for name in _COLOURS if any(phase.parts.get(name) for phase in stage.phases)]
    for name in held:
        values = (phase.parts.get(name, 0.0) for phase in stage.phases)
        table.add_row(f"[{_COLOURS[name]}]{name}[/]", *(_gib(v) if v else "-" for v in values))
    table.add_section()
    peak = stage.peak
    table.add_row(
        "total",
        *(
            f"[bold]{_gib(phase.total)}[/]" if phase is peak else _gib(phase.total)
            for phase in stage.phases
        ),
    )
    return table


def _bar(stage: Stage, memory: int, width: int) -> str:
    """The card as a row of cells; what does not fit stands behind its end."""
    peak = stage.peak
    cells, filled, drawn = "", 0.0, 0
    for name, colour in _COLOURS.items():
        filled += peak.parts.get(name, 0.0)
        end = min(round(filled / memory * width), 2 * width)
        if end > drawn:
            inside = max(0, min(end, width) - drawn)
            cells += f"[{colour}]{'█' * inside}[/]" if inside else ""
            drawn = max(drawn, min(end, width))
    over = peak.total > memory
    return f"{cells}{'·' * (width - drawn)}{'[bold red]▶[/]' if over else '│'}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= 0.05 * GIB else f"{size / GIB:.2g}"
