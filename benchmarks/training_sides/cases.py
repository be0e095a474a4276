"""What both sides of ``benchmarks/training.py`` are given: model, records, sizes, and the report.

Nothing here belongs to either side.
"""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

WARM_UP_STEPS = 2
"""First steps that do not count: they allocate."""
SEED = 42

MODEL = {
    "model_type": "llama",
    "vocab_size": 272,  # bytes, special tokens, reserved ids
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "pad_token_id": 256,
    "bos_token_id": 257,
    "eos_token_id": 260,
}
"""1.8 million parameters, in transformers' keys."""


@dataclass(frozen=True)
class Case:
    """One comparison."""

    algorithm: str
    num_steps: int
    """Measured ones."""
    global_batch_size: int
    """Samples, pairs or answers of an optimizer step."""
    micro_batch_size: int
    """Rows, or pairs, of one forward pass."""
    max_length: int
    """Tokens of a row."""
    learning_rate: float
    wanted: float
    """Our tokens per second over theirs, at least."""
    packed: bool = False
    final_metric: str = "loss"
    """What the last steps must agree in."""


CASES = {
    "sft": Case("sft", 16, 8, 8, 512, 1e-3, 1.0),
    "sft-packed": Case("sft", 12, 18, 1, 1024, 1e-3, 1.3, packed=True),
    "dpo": Case("dpo", 12, 8, 8, 256, 2e-5, 1.0),
    "grpo": Case("grpo", 10, 64, 64, 128, 1e-4, 1.0, final_metric="reward"),
}

PACKED_ROWS = 3
"""Rows of a step of the packed case on TRL's side, which counts rows and not samples: about what
18 samples fill. Rows are as long as TRL makes them by default."""
PREFERENCE_BETA = 0.1
KL_BETA = 0.04
ANSWERS_PER_PROMPT = 8
MAX_ANSWER_TOKENS = 48
STRING_LENGTH = 40
"""Letters of a string that is to be reversed, in the reinforcement case."""
WARM_START_STEPS = 30
"""Of supervised training before the reinforcement case, on either side's behalf."""


@dataclass(frozen=True)
class Report:
    """What a side measured."""

    side: str
    step_times_s: list[float]
    """From the end of one step to the end of the next, warm-up apart."""
    processor_times_s: list[float]
    """Of all threads of the process, in the same steps."""
    step_tokens: list[int]
    """Real tokens of the same steps: every token that is predicted, prompts' included; padding
    is not counted. GRPO: the answers' tokens."""
    finals: list[float]
    """The final metric of the last quarter of the steps."""
    peak_rss_mib: float
    rss_before_training_mib: float
    num_threads: int

    @property
    def tokens_per_s(self) -> float:
        """Over all measured steps."""
        return sum(self.step_tokens) / sum(self.step_times_s)

    @property
    def tokens_per_processor_s(self) -> float:
        """The same by processor time, which other work on the machine hardly changes."""
        return sum(self.step_tokens) / sum(self.processor_times_s)


class Steps:
    """Collects what happens at the end of each step."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._processor: list[float] = []
        self.tokens: list[int] = []
        self.finals: list[float] = []
        self._rss_before = resident_mib()

    def end(self) -> None:
        """A step has ended."""
        self._ends.append(time.perf_counter())
        self._processor.append(time.process_time())

    @property
    def number(self) -> int:
        """Of steps that have ended."""
        return len(self._ends)

    def report(self, side: str, num_threads: int) -> Report:
        """The first ``WARM_UP_STEPS`` do not count, nor does what came before the first end."""
        return Report(
            side,
            _differences(self._ends[WARM_UP_STEPS - 1 :]),
            _differences(self._processor[WARM_UP_STEPS - 1 :]),
            self.tokens[WARM_UP_STEPS:],
            self.finals[-(len(self.finals) // 4) :],
            peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            rss_before_training_mib=self._rss_before,
            num_threads=num_threads,
        )


def _differences(values: list[float]) -> list[float]:
    return [late - early for early, late in pairwise(values)]


def resident_mib() -> float:
    """Memory of this process at present, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def write_report(report: Report, path: Path) -> None:
    path.write_text(json.dumps(asdict(report)))


def read_report(path: Path) -> Report:
    return Report(**json.loads(path.read_text()))


def num_records(case: Case) -> int:
    """Enough for every step, and for a set that is packed as a whole."""
    return (case.num_steps + WARM_UP_STEPS + 4) * case.global_batch_size


def supervised_records(count: int, max_length: int) -> Iterator[dict[str, str]]:
    """Questions and answers of words that follow each other by a rule.

    Lengths of answers are log-normal, as those of real sets of chats roughly are.
    """
    chance = random.Random(SEED)
    for _ in range(count):
        length = min(max(int(chance.lognormvariate(4.9, 0.55)), 60), max_length - 72)
        prompt = _words(chance, chance.randint(12, 40))
        yield {"prompt": prompt, "response": _words(chance, length)}


def preference_records(count: int, max_length: int) -> Iterator[dict[str, str]]:
    """A chosen answer of words and a rejected one of letters."""
    chance = random.Random(SEED)
    for record in supervised_records(count, max_length):
        letters = [chance.choice("abcdefghijklmnopqrstuvwxyz ") for _ in record["response"]]
        chance.shuffle(letters)
        yield {
            "prompt": record["prompt"],
            "chosen": record["response"],
            "rejected": "".join(letters[: chance.randint(len(letters) // 2, len(letters))]),
        }


def reversal_records(count: int) -> Iterator[dict[str, str]]:
    """Strings of letters with their reverse."""
    chance = random.Random(SEED)
    for _ in range(count):
        text = "".join(chance.choice("abcdefghij") for _ in range(STRING_LENGTH))
        yield {"prompt": text, "response": text[::-1], "answer": text[::-1]}


def _words(chance: random.Random, num_bytes: int) -> str:
    syllables = ("ka", "lo", "mi", "ne", "ru", "sa", "te", "vo")
    word, text = chance.randrange(64), ""
    while len(text) < num_bytes:
        text += syllables[word % 8] + syllables[word // 8] + " "
        word = (5 * word + chance.randrange(8)) % 64
    return text[:num_bytes].strip()


def write_records(case: Case, path: Path) -> None:
    """The records of a case, one JSON object a line."""
    makers: dict[str, Callable[[], Iterator[dict[str, str]]]] = {
        "sft": lambda: supervised_records(num_records(case), case.max_length),
        "dpo": lambda: preference_records(num_records(case), case.max_length),
        "grpo": lambda: reversal_records(num_records(case)),
    }
    lines = [json.dumps(record) for record in makers[case.algorithm]()]
    path.write_text("\n".join(lines) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
