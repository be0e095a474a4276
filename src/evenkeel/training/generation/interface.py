"""What an algorithm asks of whatever generates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from evenkeel.training.data.image_processors import ImageInputs


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Logits are divided by it; 0: always the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens with this total probability are drawn."""
    top_k: int | None = None
    """Only so many of the likeliest tokens are drawn; None: all."""


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Request:
    """One answer to one prompt."""

    prompt_ids: list[int]
    max_new_tokens: int
    seed: int
    """The draws depend on it and on the probabilities, on nothing else."""
    images: tuple[ImageInputs, ...] = ()
    """Of the prompt, in the order of their tokens."""


@dataclass(frozen=True)
class Completion:
    """The answer to a request."""

    token_ids: list[int]
    """With the token that ended it."""
    log_probs: list[float]
    """Of each token, under the temperature but without top-p and top-k."""
    is_finished: bool
    """Whether it ended itself; otherwise it was cut."""


class GenerationEngine(ABC):
    """Generates with the weights that the policy has."""

    @abstractmethod
    def hand_over_weights(self) -> None:
        """Take the policy's present weights; every rank calls it before ``generate``."""

    @abstractmethod
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer this data-parallel rank's requests; every rank calls it, maybe with none."""
