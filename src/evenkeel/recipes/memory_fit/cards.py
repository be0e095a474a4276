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
    """The card of that name, or one with so much memory.

    Raises:
        InputError: the name is unknown, or the memory is not a positive number.
    """
    if memory_gib is not None:
        if not 0 < memory_gib < 1e6:
            raise InputError(f"--memory is {memory_gib}, not a number of GiB above 0")
        return Card(name or f"{memory_gib:g} GiB", int(memory_gib * GIB))
    name = name or DEFAULT
    if name not in CARDS:
        raise InputError(
            f"--gpu is {name!r}{did_you_mean(name, CARDS)}; known are {', '.join(CARDS)}",
            fix="give the card's memory instead: --memory GIB",
        )
    return CARDS[name]
