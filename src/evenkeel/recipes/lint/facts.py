"""Where a recipe says what: the one table of key paths, for our schema and for existing suites'.

A fact that none of the paths answers is unknown, and rules that need it stay silent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from evenkeel.recipes.located_yaml import Node, Origin, Tree

NUM_NODES = ("cluster.num_nodes",)
GPUS_PER_NODE = ("cluster.gpus_per_node",)
GLOBAL_BATCH = ("policy.train_global_batch_size",)
MICRO_BATCH = ("policy.train_micro_batch_size",)
# samples are not of equal number in every forward pass where one of these is on
VARIABLE_MICRO_BATCH = ("policy.dynamic_batching.enabled", "policy.sequence_packing.enabled")
COLOCATED = ("policy.generation.colocated.enabled",)
GENERATION_NODES = ("policy.generation.colocated.resources.num_nodes",)
GENERATION_GPUS = ("policy.generation.colocated.resources.gpus_per_node",)
MODEL_NAME = ("policy.model_name",)
SECTIONS = ("pretrain", "sft", "dpo", "grpo", "rm", "distillation")
MAX_STEPS = tuple(f"{section}.max_num_steps" for section in SECTIONS)
VAL_PERIOD = tuple(f"{section}.val_period" for section in SECTIONS)
VAL_AT_END = tuple(f"{section}.val_at_end" for section in SECTIONS)
# flag of a name → keys of which one must be on; a flag is judged only where such a key exists
FLAGS: dict[str, tuple[str, ...]] = {
    "sp": (
        "policy.parallel.sequence_parallel",
        "policy.dtensor_cfg.sequence_parallel",
        "policy.megatron_cfg.sequence_parallel",
        "policy.sequence_packing.enabled",
    ),
    "actckpt": (
        "policy.activation_checkpointing",
        "policy.dtensor_cfg.activation_checkpointing",
        "policy.megatron_cfg.activation_checkpointing",
    ),
    "seqpack": ("policy.sequence_packing.enabled",),
    "pack": ("policy.sequence_packing.enabled",),
    "dynamicbatch": ("policy.dynamic_batching.enabled",),
}
# keys whose value false, rather than true, is what the flag says
NEGATED_FLAGS: dict[str, tuple[str, ...]] = {"noncolocated": COLOCATED}


@dataclass(frozen=True)
class BackendKeys:
    """How a schema says that a backend is used, and its sizes."""

    backend: str
    key: str
    value: Any
    section: str
    names: Mapping[str, str]
    missing: int | None
    """Size where the key is absent; None: unknown."""


_OURS = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_parallel_size",
}
_MEGATRON = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_model_parallel_size",
    "etp": "expert_tensor_parallel_size",
}
_DTENSOR = {
    "tp": "tensor_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_parallel_size",
}
BACKENDS = (
    BackendKeys("fsdp2", "policy.backend", "fsdp2", "policy.parallel", _OURS, 1),
    BackendKeys("megatron", "policy.backend", "megatron", "policy.parallel", _OURS, 1),
    BackendKeys("fsdp2", "policy.dtensor_cfg.enabled", True, "policy.dtensor_cfg", _DTENSOR, None),
    BackendKeys(
        "megatron", "policy.megatron_cfg.enabled", True, "policy.megatron_cfg", _MEGATRON, None
    ),
)

# sections of other schemas whose every key shapes the loss curve, as the same sections of ours do
CURVE_SECTIONS = ("policy.optimizer.", "policy.scheduler.", "loss_fn.", "data.dataset")

# stages of a depth of their own; the others share the rest equally
FIRST_STAGE = (
    "policy.parallel.num_layers_in_first_pipeline_stage",
    "policy.megatron_cfg.num_layers_in_first_pipeline_stage",
)
LAST_STAGE = (
    "policy.parallel.num_layers_in_last_pipeline_stage",
    "policy.megatron_cfg.num_layers_in_last_pipeline_stage",
)
# keys that put the layers onto stages in other ways
OTHER_STAGES = re.compile(r"pipeline_model_parallel_layout|account_for_(embedding|loss)")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_COMMAND_LINE = "driver"


class Fact(NamedTuple):
    """A value with its key and place."""

    key: str
    value: Any
    origin: Origin

    @property
    def is_count(self) -> bool:
        """Whether it is a whole number of at least 1."""
        return type(self.value) is int and self.value >= 1


class Facts:
    """A resolved recipe, and what the driver's command line changes in it.

    Args:
        tree: the merged tree.
        overrides: dotted key → value of the driver's command line; None: not known.
        driver: path of the driver, where overrides come from.
    """

    def __init__(
        self, tree: Tree, overrides: Mapping[str, tuple[Any, int]] | None = None, driver: str = ""
    ) -> None:
        self.tree = tree
        self.overrides = overrides or {}
        self.driver = driver

    def get(self, *keys: str) -> Fact | None:
        """The first of ``keys`` that the recipe has with a value that can be known."""
        for key in keys:
            fact = self._one(key, 0)
            if fact is not None:
                return fact
        return None

    def count(self, *keys: str) -> int | None:
        """``get`` where it is a whole number of at least 1."""
        fact = self.get(*keys)
        return fact.value if fact is not None and fact.is_count else None

    def _one(self, key: str, depth: int) -> Fact | None:
        if key in self.overrides:
            value, line = self.overrides[key]
            return None if value is None else Fact(key, value, Origin(self.driver, line))
        if any(key.startswith(f"{changed}.") for changed in self.overrides):
            return None
        node = lookup(self.tree, key)
        if node is None or isinstance(node.value, (dict, list)):
            return None
        if isinstance(node.value, str) and "${" in node.value:
            reference = _REFERENCE.fullmatch(node.value)
            if reference is None or depth > 8:
                return None
            there = self._one(reference[1], depth + 1)
            return None if there is None else Fact(key, there.value, node.origin)
        return None if node.value is None else Fact(key, node.value, node.origin)


def lookup(tree: Tree, key: str) -> Node | None:
    """The node at a dotted key."""
    node: Node | None = None
    value: Any = tree
    for part in key.split("."):
        node = value.get(part) if isinstance(value, dict) else None
        if node is None:
            return None
        value = node.value
    return node


@dataclass(frozen=True)
class Layout:
    """The backend in use and its sizes; a size that is not known is absent."""

    backend: str
    switch: Fact
    sizes: Mapping[str, Fact]

    def size(self, kind: str) -> int | None:
        """A size as a number."""
        fact = self.sizes.get(kind)
        return None if fact is None else fact.value


def switches_of(facts: Facts) -> list[tuple[BackendKeys, Fact]] | None:
    """Every way in which the recipe could switch a backend on, with what it says there.

    None: one of them cannot be known.
    """
    found: list[tuple[BackendKeys, Fact]] = []
    for keys in BACKENDS:
        switch = facts.get(keys.key)
        if switch is not None:
            found.append((keys, switch))
        elif lookup(facts.tree, keys.key) is not None:
            return None
    return found


def is_on(keys: BackendKeys, switch: Fact) -> bool:
    """Whether a switch says what its backend wants; 1 is not true here."""
    return type(switch.value) is type(keys.value) and bool(switch.value == keys.value)


def layout_of(facts: Facts) -> Layout | None:
    """The layout, where exactly one backend is switched on."""
    active = [pair for pair in switches_of(facts) or [] if is_on(*pair)]
    if len(active) != 1:
        return None
    keys, switch = active[0]
    sizes = {}
    for kind, name in keys.names.items():
        key = f"{keys.section}.{name}"
        fact = facts.get(key)
        if fact is None and keys.missing is not None and lookup(facts.tree, key) is None:
            fact = Fact(key, keys.missing, Origin("default"))
        if fact is not None and fact.is_count:
            sizes[kind] = fact
    return Layout(keys.backend, switch, sizes)


def training_gpus(facts: Facts) -> int | None:
    """GPUs that train: the allocation, less what is set aside for generation."""
    nodes, gpus = facts.count(*NUM_NODES), facts.count(*GPUS_PER_NODE)
    if nodes is None or gpus is None:
        return None
    colocated = facts.get(*COLOCATED)
    if colocated is None or colocated.value is True:
        return nodes * gpus
    if nodes == 1:
        aside = facts.count(*GENERATION_GPUS)
        left = None if aside is None else gpus - aside
    else:
        aside = facts.count(*GENERATION_NODES)
        left = None if aside is None else (nodes - aside) * gpus
    return left if left is not None and left > 0 else None


def mentions_fp8(tree: Tree) -> bool:
    """Whether any value, or any switch that is on, has to do with fp8."""
    for key, node in tree.items():
        if isinstance(node.value, dict):
            enabled = node.value.get("enabled")
            if "fp8" in key.lower() and enabled is not None and enabled.value is True:
                return True
            if mentions_fp8(node.value):
                return True
        elif _is_fp8(key.lower(), str(node.value).lower()):
            return True
    return False


def _is_fp8(key: str, value: str) -> bool:
    if "fp8" in value or "float8" in value:
        return True
    return "fp8" in key and value not in ("none", "false", "0", "", "null")
