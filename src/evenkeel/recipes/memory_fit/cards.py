"""GPUs and their memory."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.errors import InputError, did_you_mean

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Card:
    """One GPU."""

    name: str
    memory: int
    """Bytes."""
    part_of: str | None = None
    """The card of which only so much memory is to be used."""


CARDS = {
    name: Card(name, mib * MIB)
    for name, mib in {
        "l4-24gb": 23034,
        "a100-40gb": 40960,
        "l40s-48gb": 46068,
        "h100-80gb": 81559,
        "a100-80gb": 81920,
        "h200-141gb": 143771,
        "b200-180gb": 183359,
    }.items()
}
"""Memory in MiB as nvidia-smi reports it for the whole card; smallest first."""

DEFAULT = "h100-80gb"


def card(name: str | None, memory_gib: float | None) -> Card:
    """The card of that name, or one with so much memory; with both, a part of the card's memory.

    Raises:
        InputError: the name is unknown, or the memory is not a positive number, or more than the
            card has.
    """
    if memory_gib is None:
        return _named(name or DEFAULT)
    if not 0 < memory_gib < 1e6:
        raise InputError(f"--memory is {memory_gib}, not a number of GiB above 0")
    memory, shown = int(memory_gib * GIB), f"{memory_gib:g} GiB"
    if name is None:
        return Card(shown, memory)
    whole = _named(name)
    if memory > whole.memory:
        raise InputError(
            f"--memory is {memory_gib:g}, and --gpu {name} has {whole.memory / GIB:.1f} GiB",
            fix="give less, or --memory without --gpu for another card",
        )
    return Card(f"{name} with {shown}", memory, part_of=name)


def _named(name: str) -> Card:
    if name not in CARDS:
        raise InputError(
            f"--gpu is {name!r}{did_you_mean(name, CARDS)}; known are {', '.join(CARDS)}",
            fix="give the card's memory instead: --memory GIB",
        )
    return CARDS[name]
