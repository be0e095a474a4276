"""What each metric is: its range, whether single steps of it are noise, and who logs it.

Names are those of the field's suites. ``*`` in a name stands for anything without a slash.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

INF = math.inf


class Metric(NamedTuple):
    """One metric.

    Args:
        name: as logged.
        low: least possible value.
        high: largest possible value.
        noisy: one step of it says little.
        algorithms: who logs it; empty: all.
        ours: whether our trainer logs it.
        kind: ``curve``, ``time`` or ``machine``.
    """

    name: str
    low: float = -INF
    high: float = INF
    noisy: bool = False
    algorithms: frozenset[str] = frozenset()
    ours: bool = True
    kind: str = "curve"


_CROSS_ENTROPY = frozenset({"pretrain", "sft", "dpo", "rm"})
_PREFERENCE = frozenset({"dpo", "rpo", "rm"})
_RL = frozenset({"grpo", "gspo", "dapo", "ppo", "rloo", "distillation"})


def _curve(name: str, *who: str, low: float = -INF, high: float = INF, ours: bool = True,
           noisy: bool = True) -> Metric:  # fmt: skip
    return Metric(name, low, high, noisy, frozenset(who), ours)


def _machine(name: str, *, ours: bool = True, kind: str = "machine", high: float = INF) -> Metric:
    return Metric(name, 0.0, high, False, frozenset(), ours, kind)


CATALOGUE: tuple[Metric, ...] = (
    _curve("train/loss"),
    _curve("train/grad_norm", low=0.0),
    _curve("train/lr", low=0.0, noisy=False),
    _curve("train/global_valid_toks", low=0.0, noisy=False),
    _curve("train/global_valid_seqs", low=0.0, noisy=False),
    _curve("train/num_valid_samples", low=0.0, noisy=False, ours=False),
    _curve("train/accuracy", low=0.0, high=1.0),
    _curve("train/preference_loss", *_PREFERENCE, low=0.0),
    _curve("train/sft_loss", *_PREFERENCE, low=0.0),
    _curve("train/rewards_chosen_mean", *_PREFERENCE),
    _curve("train/rewards_rejected_mean", *_PREFERENCE),
    _curve("train/reward", *_RL),
    _curve("train/kl_penalty", *_RL),
    _curve("train/approx_entropy", *_RL),
    _curve("train/entropy", *_RL),
    _curve("train/gen_kl_error", *_RL, low=0.0),
    _curve("train/policy_kl_error", *_RL, low=0.0, ours=False),
    _curve("train/js_divergence_error", *_RL, low=0.0, ours=False),
    _curve("train/token_mult_prob_error", *_RL, low=1.0),
    _curve("train/probs_ratio", *_RL, low=0.0),
    _curve("train/probs_ratio_min", *_RL, low=0.0, ours=False),
    _curve("train/probs_ratio_max", *_RL, low=0.0, ours=False),
    _curve("train/probs_ratio_clamped", *_RL, low=0.0),
    _curve("train/probs_ratio_clamped_min", *_RL, low=0.0, ours=False),
    _curve("train/probs_ratio_clamped_max", *_RL, low=0.0, ours=False),
    _curve("train/sampling_importance_ratio", *_RL, low=0.0),
    _curve("train/mean_prompt_length", *_RL, low=0.0),
    _curve("train/mean_gen_tokens_per_sample", *_RL, low=0.0),
    _curve("train/truncation_rate", *_RL, low=0.0, high=1.0),
    _curve("train/num_sampled_prompts", *_RL, low=0.0),
    _curve("train/advantages/mean", *_RL, ours=False),
    _curve("validation/loss", noisy=False),
    _curve("validation/accuracy", low=0.0, high=1.0, noisy=False),
    _curve("validation/bits_per_byte", "pretrain", low=0.0, noisy=False),
    _curve("validation/reward", *_RL, noisy=False),
    _curve("validation/sft_loss", *_PREFERENCE, low=0.0, noisy=False),
    _curve("validation/preference_loss", *_PREFERENCE, low=0.0, noisy=False),
    _curve("validation/avg_length", *_RL, low=0.0, noisy=False),
    _machine("train/tokens_per_sec_per_gpu", kind="time"),
    _machine("train/mfu", kind="time", high=1.0),
    _machine("train/max_memory_gib"),
    _machine("timing/train/*", kind="time"),
    _machine("timing/validation/*", kind="time"),
    _machine("performance/*", kind="time", ours=False),
    _machine("ray/node.*", ours=False),
)

_EXACT = {metric.name: metric for metric in CATALOGUE if "*" not in metric.name}
_PATTERNS = tuple(
    (re.compile(re.escape(metric.name).replace(r"\*", r"[^/]+")), metric)
    for metric in CATALOGUE
    if "*" in metric.name
)
_TIME = re.compile(r"^(timing|performance)/|_time(_s|_ms)?$|per_sec|throughput|(^|/)mfu$")


@lru_cache(maxsize=1024)
def known(name: str) -> Metric | None:
    """The catalogue's entry for ``name``."""
    if name in _EXACT:
        return _EXACT[name]
    return next((metric for pattern, metric in _PATTERNS if pattern.fullmatch(name)), None)


def is_time(name: str) -> bool:
    """Whether a metric measures speed, which depends on the machine and its neighbours."""
    metric = known(name)
    return metric.kind == "time" if metric is not None else bool(_TIME.search(name))


def is_curve(name: str) -> bool:
    """Whether a metric belongs to the training, not to the machine."""
    metric = known(name)
    return metric.kind == "curve" if metric is not None else not is_time(name)


def range_of(name: str, algorithm: str) -> tuple[float, float]:
    """(least, largest) possible value; infinite where nothing is known."""
    if name in ("train/loss", "validation/loss"):
        # policy-gradient losses may be negative; cross-entropy may not
        return (0.0, INF) if algorithm in _CROSS_ENTROPY else (-INF, INF)
    metric = known(name)
    return (-INF, INF) if metric is None else (metric.low, metric.high)


def logged_by(algorithm: str) -> list[str]:
    """The metrics that our trainer logs for ``algorithm``."""
    return [
        metric.name
        for metric in CATALOGUE
        if metric.ours and (not metric.algorithms or algorithm in metric.algorithms)
    ]


def every_name() -> list[str]:
    """All exact names of the catalogue."""
    return list(_EXACT)
