"""Which layers each pipeline stage holds: said once, for what is predicted and what is trained."""

from __future__ import annotations

from evenkeel.errors import InputError


def layers_of_stages(
    num_layers: int, pp: int, first: int | None = None, last: int | None = None, vpp: int = 1
) -> list[range]:
    """The layers of each of ``pp`` pipeline stages; ``first`` and ``last`` are theirs by wish.

    Raises:
        InputError: the layers do not divide.
    """
    if pp == 1:
        return [range(num_layers)]
    counts: list[int | None] = [None] * pp
    counts[0], counts[-1] = first, last
    open_stages = counts.count(None)
    rest = num_layers - sum(count for count in counts if count is not None)
    if rest < 0 or (open_stages and rest % (open_stages * vpp)):
        raise InputError(
            f"{num_layers} layers do not divide over {pp} pipeline stages"
            + (f" of {vpp} pieces" if vpp > 1 else ""),
            fix="change policy.parallel.pipeline_parallel_size, or set "
            "policy.parallel.num_layers_in_first_pipeline_stage",
        )
    share = rest // open_stages if open_stages else 0
    stages, start = [], 0
    for count in counts:
        end = start + (share if count is None else count)
        stages.append(range(start, end))
        start = end
    return stages
