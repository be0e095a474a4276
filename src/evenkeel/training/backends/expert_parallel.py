"""Expert parallelism of transformers' mixtures, on the ranks that share attention's matrices.

The ranks of a tensor-parallel group work on the same tokens, and the router is whole on each of
them, so no token has to travel: a rank runs its own experts on the tokens that are routed to them,
and the sum over the group (the order of Shoeybi et al. 2019, arXiv:1909.08053, section 3) is the
layer's output. In the backward pass the gradients of what all experts read, tokens and routing
weights, are summed over the group in turn; that of the router is then whole on every rank.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from evenkeel.recipes.model_support import check_shared_experts
from evenkeel.recipes.schema import Parallel
from evenkeel.training.models import text_blocks


def holds_experts(module: nn.Module) -> bool:
    """Whether matrices of all experts lie in it, one behind the other."""
    return any(weight.ndim > 2 for weight in module.parameters(recurse=False))


def num_experts(model: nn.Module) -> int:
    """Of a layer that has them; 0 for a dense model."""
    for _, block in text_blocks(model):
        for module in filter(holds_experts, block.modules()):
            return next(module.parameters(recurse=False)).shape[0]
    return 0


def has_dense_layers(model: nn.Module) -> bool:
    """Whether a layer of the language model has no experts."""
    return any(not any(map(holds_experts, block.modules())) for _, block in text_blocks(model))


def check_supported(model: nn.Module, config: Any, parallel: Parallel) -> None:
    """Raise an error where experts cannot lie on ranks as the recipe asks.

    Args:
        model: also on the meta device.
        config: of its language model.
        parallel: of the recipe.

    Raises:
        InputError: with the sizes that work.
    """
    check_shared_experts(parallel, config.model_type, num_experts(model))


class WholeExperts(ParallelStyle):
    """Gives each rank of the mesh ``num_experts / size`` experts of a module with all of them.

    Weights of (experts, …) become DTensors that are split along their first dimension; the module
    takes and gives whole tensors, the same on every rank.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, weight in list(module.named_parameters(recurse=False)):
            part = distribute_tensor(weight, device_mesh, [Shard(0)], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(part, weight.requires_grad))
        # on ``forward``, not as a wrapping module: names of weights stay
        module.forward = partial(_forward, module, type(module).forward, device_mesh)
        return module


def _forward(
    module: nn.Module,
    run: Callable[..., Tensor],
    mesh: DeviceMesh,
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
) -> Tensor:
    """What transformers' experts compute.

    Args:
        module: with this rank's part of the weights.
        run: the forward pass of its class.
        mesh: of the ranks that share the experts.
        hidden_states: of (tokens, hidden).
        top_k_index: of (tokens, k), numbers of experts.
        top_k_weights: of (tokens, k), their parts in the sum.

    Returns:
        (tokens, hidden).
    """
    weights = {name: _local(weight) for name, weight in module.named_parameters(recurse=False)}
    count = next(iter(weights.values())).shape[0]
    place = top_k_index - count * mesh.get_local_rank()
    is_elsewhere = (place < 0) | (place >= count)
    # transformers skips what is routed to the expert behind the last, in both passes
    place = place.masked_fill(is_elsewhere, count)
    routing = _summed_backward(top_k_weights, mesh).masked_fill(is_elsewhere, 0.0)
    mine: Any = copy.copy(module)  # shares all but the attributes that are set here
    mine._parameters, mine.num_experts, mine._is_expert_parallel = weights, count, True
    part = run(mine, _summed_backward(hidden_states, mesh), place, routing)
    whole = DTensor.from_local(part, mesh, [Partial()], run_check=False)
    return _local(whole.redistribute(placements=[Replicate()]))


def _summed_backward(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """It as it is; its gradient, of which each rank has a part, is summed over ``mesh``."""
    shared = DTensor.from_local(tensor, mesh, [Replicate()], run_check=False)
    return shared.to_local(grad_placements=[Partial()])


def _local(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local
