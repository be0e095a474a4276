"""One rank of the trainings that ``memory_fit.py`` measures; prints their bytes as JSON."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from memory_fit import CASES, Case, recipe_of

from evenkeel.recipes.schema import Algorithm, Backend, Recipe

ROUNDS = 3
"""Of each phase; the lowest of their peaks counts. Collectives over gloo free their buffers from
threads of their own, later where the machine is busy: no memory that the phase needs."""


def measure(case: Case) -> dict[str, float] | None:
    """The same as ``predicted``, of this rank."""
    from evenkeel.training import models
    from evenkeel.training.distributed import joined

    recipe = recipe_of(case)
    with joined(recipe) as world:
        architecture = models.load_config(recipe.policy)
        backend = _backend(recipe, architecture, world)
        reference = None
        if case.algorithm in (Algorithm.DPO, Algorithm.GRPO):
            reference = _backend(recipe, architecture, world)
            reference.freeze()
        per_rank = recipe.policy.train_global_batch_size // backend.place.size
        num_micro = per_rank // recipe.policy.train_micro_batch_size
        rows = recipe.policy.train_micro_batch_size * (1 + (case.algorithm is Algorithm.DPO))
        batches = [_batch(recipe, rows, seed) for seed in range(num_micro)]
        loss = _loss(case, recipe)
        # the first step makes the states of the optimizer
        backend.forward_backward(batches, loss)
        backend.clip_gradients(1.0)
        backend.step(1e-3)
        generates = case.algorithm is Algorithm.GRPO
        if not generates:
            samples = recipe.val_samples_per_pass(backend.place.size)
            num_val = recipe.loop.val_global_batch_size // (backend.place.size * samples)
            per_sample = rows // recipe.policy.train_micro_batch_size
            val = [_batch(recipe, samples * per_sample, 9 + seed) for seed in range(num_val)]
        trained, validated = [], []
        for _ in range(ROUNDS):
            trained.append(_peak(lambda: backend.forward_backward(batches, loss)))
            backend.clip_gradients(1.0)
            states = _states(backend)
            backend.step(1e-3)
            if generates:
                validated.append(_peak(lambda: _generate(recipe, backend)))
            else:
                validated.append(_peak(lambda: _validate(case, recipe, backend, val)))
        return {
            **states,
            "train": min(trained),
            "reference": 0.0 if reference is None else _weight_bytes(reference),
            "generate" if generates else "validate": min(validated),
        }


def _backend(recipe: Recipe, architecture: Any, world: Any) -> Any:
    if recipe.policy.backend is Backend.FSDP2:
        from evenkeel.training.backends.fsdp2 import Fsdp2Backend
        from evenkeel.training.backends.pipeline import PipelineBackend

        stages = recipe.policy.parallel.pipeline_parallel_size
        made = PipelineBackend if stages > 1 else Fsdp2Backend
        return made(recipe, architecture, world)
    from evenkeel.training.backends.megatron.backend import MegatronBackend

    return MegatronBackend(recipe, architecture, world)


def _batch(recipe: Recipe, rows: int, seed: int) -> Any:
    """Rows of full length in which every token is trained."""
    from evenkeel.training.data.batches import MicroBatch

    seq = recipe.policy.max_total_sequence_length
    ids = torch.randint(0, 256, (rows, seq), generator=torch.Generator().manual_seed(seed))
    images: dict[str, torch.Tensor] = {}
    vision = recipe.policy.model_config.get("vision_config")
    if vision is not None:
        side = vision["image_size"]
        num_tokens = (side // vision["patch_size"]) ** 2
        ids[:, :num_tokens] = recipe.policy.model_config["image_token_index"]
        images["pixel_values"] = torch.randn(rows, 3, side, side)
    segments = None
    if recipe.policy.sequence_packing.enabled:
        segments = torch.arange(seq).div(seq // 2, rounding_mode="floor").expand(rows, -1) + 1
    ones = torch.ones_like(ids)
    extras = {
        name: torch.full(ids.shape, 0.01)
        for name in ("reference_log_probs", "advantages", "weights", "generation_log_probs")
    }
    return MicroBatch(
        input_ids=ids,
        labels=ids.roll(-1, dims=1) % 256,
        position_ids=torch.arange(seq).expand(rows, -1).contiguous(),
        attention_mask=ones,
        segment_ids=segments,
        num_trained_tokens=ids.numel(),
        sample_indices=tuple((row,) for row in range(rows)),
        extras=extras,
        images=images,
    )


def _loss(case: Case, recipe: Recipe) -> Callable[..., Any]:
    from evenkeel.training.algorithms import cross_entropy, dpo, grpo_objective

    if case.algorithm is Algorithm.DPO:
        return partial(dpo.dpo_loss, settings=recipe.dpo, num_pairs=4.0)
    if case.algorithm is Algorithm.GRPO:
        return partial(grpo_objective.grpo_loss, settings=recipe.grpo, temperature=1.0)
    return partial(cross_entropy.cross_entropy, num_tokens=1000.0)


def _validate(case: Case, recipe: Recipe, backend: Any, batches: list[Any]) -> None:
    from evenkeel.training.algorithms import dpo, sft

    if case.algorithm is Algorithm.DPO:
        backend.forward(batches, partial(dpo.dpo_measure, settings=recipe.dpo))
    else:
        backend.forward(batches, sft.sft_measure)


def _generate(recipe: Recipe, backend: Any) -> None:
    from evenkeel.training.generation.builtin import BuiltinEngine
    from evenkeel.training.generation.interface import Request, Sampling

    new = recipe.policy.generation.max_new_tokens
    rows = max(recipe.grpo.num_generations_per_prompt, recipe.grpo.val_global_batch_size)
    places = range(recipe.policy.max_total_sequence_length - new)
    # prompts that differ, as in validation
    requests = [Request([place + seed for place in places], new, seed) for seed in range(rows)]
    BuiltinEngine(backend, [-1], 0).generate(requests, Sampling(1.0, 1.0, None))


def _peak(act: Callable[[], object]) -> float:
    """Bytes that torch's allocator holds at most above what it held before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        act()
    results = profile.profiler.kineto_results
    memory = [event for event in results.events() if event.name() == "[memory]"]
    records = sorted((event.start_ns(), event.nbytes()) for event in memory)
    held = peak = 0
    for _, change in records:
        held += change
        peak = max(peak, held)
    return float(peak)


def _states(backend: Any) -> dict[str, float]:
    if hasattr(backend, "chunks"):
        buffers = [
            buffer
            for module in backend._modules
            for buffer in (*module.buffers, *module.expert_parallel_buffers)
        ]
        weights = [weight for chunk in backend.chunks for weight in chunk.parameters()]
        frozen = sum(weight.nbytes for weight in weights if not weight.requires_grad)
        return {
            "weights": float(frozen + sum(b.param_data.nbytes for b in buffers)),
            "gradients": float(sum(b.grad_data.nbytes for b in buffers)),
            "optimizer": float(sum(_optimizer_bytes(backend))),
        }
    weights = list(backend.model.parameters())
    return {
        "weights": float(_weight_bytes(backend)),
        "gradients": float(sum(_local(w.grad).nbytes for w in weights if w.grad is not None)),
        "optimizer": float(sum(_moments(backend.optimizer))),
    }


def _optimizer_bytes(backend: Any) -> Iterator[int]:
    is_fp32 = backend._architecture.config.params_dtype is torch.float32
    for part in backend.optimizer.library.chained_optimizers:
        if part.optimizer is None:
            continue
        yield from _moments(part.optimizer)
        for group in part.optimizer.param_groups:
            yield from (0 if is_fp32 else weight.nbytes for weight in group["params"])


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[int]:
    for state in optimizer.state.values():
        yield from (_local(state[name]).nbytes for name in ("exp_avg", "exp_avg_sq"))


def _weight_bytes(backend: Any) -> int:
    models = backend.chunks if hasattr(backend, "chunks") else [backend.model]
    weights = {id(w): w for model in models for w in model.parameters()}
    return sum(_local(weight).nbytes for weight in weights.values())


def _local(tensor: torch.Tensor) -> torch.Tensor:
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def main() -> None:
    warnings.simplefilter("ignore")
    names, ports = json.loads(sys.argv[1])
    by_name = {case.name: case for case in CASES}
    sizes = []
    for name, port in zip(names, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        sizes.append(measure(by_name[name]))
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
