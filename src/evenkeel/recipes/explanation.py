"""What a recipe's name says, in words."""

from __future__ import annotations

import re

from evenkeel.recipes.name import RecipeName
from evenkeel.recipes.name_exception import NameException
from evenkeel.recipes.vocabulary import Vocabulary

_SIZE = re.compile(
    r"(?<![a-z0-9.])([0-9]+(?:\.[0-9]+)?)([bm])(?:-?a([0-9]+(?:\.[0-9]+)?)b)?(?![a-z])"
)
_MIXTURE = re.compile(r"(?<![a-z0-9.])([0-9]+(?:\.[0-9]+)?)ba([0-9]+(?:\.[0-9]+)?)b(?![a-z])")
_TUNED = {
    "instruct": "tuned to instructions",
    "it": "tuned to instructions",
    "chat": "tuned to chats",
    "base": "base weights",
}
_SPLITS_GPUS = {"noncolocated", "async"}


def explain(
    name: RecipeName, vocabulary: Vocabulary, exception: NameException | None = None
) -> list[tuple[str, str]]:
    """(heading, sentence) pairs: what is trained, how, on what, how parallel, and the rest.

    Args:
        name: the name.
        vocabulary: what its words mean.
        exception: the driver's declaration, where the name states no allocation.
    """
    rows = [
        ("trains", _model(name, vocabulary)),
        ("by", vocabulary.algorithms.get(name.algo, f"{name.algo} (not in the vocabulary)")),
        ("on", _allocation(name, exception)),
        ("parallel", _parallel(name, exception)),
    ]
    for word, meaning in vocabulary.modifier_meanings(name.modifiers):
        rows.append((word, meaning or "not in the vocabulary"))
    if name.context:
        length = int(name.context[:-1]) * 1024
        rows.append(
            (name.context, f"sequences of {length:,} tokens, said in place of the allocation")
        )
    if name.long:
        rows.append(("long", vocabulary.modifiers["long"]))
    if name.version is not None:
        rows.append((f".v{name.version}", "counts the changes of this recipe's convergence"))
    return rows


def _model(name: RecipeName, vocabulary: Vocabulary) -> str:
    family = vocabulary.family(name.model)
    said = [vocabulary.models[family] if family else f"{name.model} (family not in the vocabulary)"]
    lower = name.model.lower()
    teacher, _, student = lower.partition("-to-")
    if student:
        said.append(
            f"a student of {_size(student) or student} from a teacher of "
            f"{_size(teacher) or teacher}"
        )
        lower = student
    elif size := _size(lower):
        said.append(size)
    words = lower.split("-")
    said.extend(meaning for word, meaning in _TUNED.items() if word in words)
    text = ", ".join(said)
    if name.vlm:
        text += "; images and text"
    sets = [vocabulary.datasets[word] for word in words if word in vocabulary.datasets]
    return f"{text}; data: {', '.join(sets)}" if sets else text


def _size(model: str) -> str | None:
    if match := _MIXTURE.search(model):
        return f"{match[1]} billion parameters, {match[2]} billion active per token"
    if match := _SIZE.search(model):
        unit = "billion" if match[2] == "b" else "million"
        active = f", {match[3]} billion active per token" if match[3] else ""
        return f"{match[1]} {unit} parameters{active}"
    return None


def _hardware(name: RecipeName, exception: NameException | None) -> tuple[int, int] | None:
    if name.num_nodes is not None and name.gpus_per_node is not None:
        return name.num_nodes, name.gpus_per_node
    return (exception.num_nodes, exception.gpus_per_node) if exception else None


def _allocation(name: RecipeName, exception: NameException | None) -> str:
    hardware = _hardware(name, exception)
    if hardware is None:
        return "hardware that the name does not state; its driver must declare it"
    nodes, gpus = hardware
    source = "" if name.num_nodes is not None else " (declared in the driver)"
    return (
        f"{_count(nodes, 'node')} of {_count(gpus, 'GPU')}: {_count(nodes * gpus, 'GPU')}{source}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def model_parallel_size(name: RecipeName) -> int:
    """GPUs that one copy of the model takes by its name; sizes it does not state count as 1."""
    strategy = name.strategy
    return (strategy.tp or 1) * (strategy.pp or 1) * (strategy.cp or 1)


def uneven_split(name: RecipeName) -> str | None:
    """What is wrong when the sizes in the name do not divide its own allocation, else None.

    Recipes that give part of their GPUs to generation are not judged: how many is not in the name.
    """
    if name.num_nodes is None or name.gpus_per_node is None:
        return None
    if _SPLITS_GPUS & set(name.modifiers):
        return None
    world, copy = name.num_nodes * name.gpus_per_node, model_parallel_size(name)
    if world % copy == 0:
        return None
    sizes = name.strategy.sizes
    factors = " × ".join(f"{key}{sizes[key]}" for key in ("tp", "pp", "cp") if key in sizes)
    return f"{factors} = {copy} does not divide {_count(world, 'GPU')}"


def _parallel(name: RecipeName, exception: NameException | None) -> str:
    strategy = name.strategy
    backends = {
        "fsdp1": "FSDP",
        "fsdp2": "FSDP2",
        "dtensor": "DTensor",
        "megatron": "Megatron-Core",
        "ddp": "DDP",
        "deepspeed": "DeepSpeed",
        "automodel": "NeMo Automodel",
    }
    said = [backends.get(strategy.backend or "", "a backend that the name does not state")]
    labels = {
        "tp": "tensor",
        "pp": "pipeline",
        "cp": "context",
        "ep": "expert",
        "etp": "expert tensor",
        "vpp": "virtual pipeline",
        "fsdp": "shard",
        "dp": "data",
    }
    said.extend(
        f"{labels[key]} parallel size {size}" if key != "fsdp" else f"parameters shared by {size}"
        for key, size in strategy.sizes.items()
    )
    if strategy.sp:
        said.append("sequence parallel")
    hardware = _hardware(name, exception)
    if not strategy.sizes:
        said.append("parallel sizes as the recipe says")
    elif hardware and strategy.dp is None:
        world, copy = hardware[0] * hardware[1], model_parallel_size(name)
        said.append(
            f"data parallel size {world // copy} = {world} / {copy}"
            if world % copy == 0
            else f"which does not divide {_count(world, 'GPU')}"
        )
    if _SPLITS_GPUS & set(name.modifiers) and strategy.sizes:
        said.append("less what generation takes")
    return ", ".join(said)
