"""What a file name claims, read as tolerantly as possible.

The grammar of :mod:`evenkeel.recipes.name` says what a name must look like; this module answers
what a name of any tree, ours or not, states beyond doubt, and is silent about the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_VERSION = re.compile(r"\.v(\d+)$")
_ALGORITHM = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_ALLOCATION = re.compile(r"(\d+)n(\d+)g")
_CONTEXT_LENGTH = re.compile(r"\d+[kK]")
_BACKENDS = {
    "fsdp": "fsdp2",
    "fsdp2": "fsdp2",
    "dtensor": "fsdp2",
    "dtensor2": "fsdp2",
    "automodel": "fsdp2",
    "megatron": "megatron",
}
_STRATEGY = re.compile(
    r"(?P<backend>fsdp2|dtensor2|dtensor|megatron|automodel|fsdp)?"
    r"(?P<sizes>(?:(?:fsdp|tp|pp|cp|ep|dp|etp|vpp)\d+)*)(?P<sp>sp)?"
)
# sizes after one of these are those of generation, until a word of training
_OTHER_WORKERS = frozenset({"gen", "generation", "infer", "inference", "rollout", "vllm"})
_TRAINERS = frozenset({"train", "training", "policy"})
_SIZE = re.compile(r"(fsdp|tp|pp|cp|ep|dp|etp|vpp)(\d+)")


@dataclass(frozen=True)
class Claims:
    """What a name states.

    Args:
        name: without suffix.
        algo: the first word, without ``vlm_``.
        vlm: whether it starts with ``vlm_``.
        allocation: (nodes, GPUs per node), where the name has exactly one.
        context_length: a word such as ``8K`` stands in it.
        backend: ``fsdp2`` or ``megatron``, where the name says one.
        sizes: ``tp``, ``pp``, ``cp``, ``ep`` … → size; a size stated twice differently is absent.
        flags: words after the allocation that are no strategy, lower case, ``sp`` included.
        version: of ``.vN``.
    """

    name: str
    algo: str
    vlm: bool
    allocation: tuple[int, int] | None
    context_length: bool
    backend: str | None
    sizes: dict[str, int]
    flags: frozenset[str]
    version: int | None

    @property
    def stem(self) -> str:
        """The name without its version."""
        return _VERSION.sub("", self.name)

    @property
    def looks_like_a_recipe(self) -> bool:
        """Whether the name says on what, or with what context, it runs."""
        return self.allocation is not None or self.context_length


def words_of(name: str) -> list[str]:
    """The words of a name: what stands between hyphens, without the version."""
    return _VERSION.sub("", name).split("-")


def is_algorithm(word: str) -> bool:
    """Whether a word may be an algorithm, known or not, with or without ``vlm_``."""
    return _ALGORITHM.fullmatch(word) is not None


def is_layout(word: str) -> bool:
    """Whether a word states an allocation or a strategy."""
    return bool(_ALLOCATION.fullmatch(word) or _STRATEGY.fullmatch(word))


@lru_cache(maxsize=64)
def read_claims(name: str) -> Claims:
    """What ``name`` states; never raises."""
    version = _VERSION.search(name)
    words = words_of(name)
    algo = words[0].removeprefix("vlm_")
    places = [index for index, word in enumerate(words) if _ALLOCATION.fullmatch(word)]
    match = _ALLOCATION.fullmatch(words[places[0]]) if len(places) == 1 else None
    start = places[0] + 1 if places else 1
    backends: set[str] = set()
    sizes: dict[str, set[int]] = {}
    flags: set[str] = set()
    training = True
    for word in words[start:]:
        if word in _OTHER_WORKERS or word in _TRAINERS:
            training = word in _TRAINERS
        if not training:
            continue
        strategy = _STRATEGY.fullmatch(word)
        if not strategy or not word:
            flags.add(word.lower())
            continue
        if strategy["backend"]:
            backends.add(_BACKENDS[strategy["backend"]])
        for kind, number in _SIZE.findall(strategy["sizes"]):
            sizes.setdefault(kind, set()).add(int(number))
        if strategy["sp"]:
            flags.add("sp")
        # fsdp1 is the first generation, not one shard
        if strategy["backend"] is None and sizes.get("fsdp", {1}) != {1}:
            backends.add("fsdp2")
    return Claims(
        name=name,
        algo=algo,
        vlm=words[0].startswith("vlm_"),
        allocation=(int(match[1]), int(match[2])) if match else None,
        context_length=any(_CONTEXT_LENGTH.fullmatch(word) for word in words),
        backend=next(iter(backends)) if len(backends) == 1 else None,
        sizes={kind: min(numbers) for kind, numbers in sizes.items() if len(numbers) == 1},
        flags=frozenset(flags),
        version=int(version[1]) if version else None,
    )
