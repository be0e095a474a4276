"""The nearest legal name to a text that is none."""

from __future__ import annotations

import re
from collections.abc import Iterator

from evenkeel.recipes import name as names
from evenkeel.recipes.strategy import STANDARD, StrategyError, StrategyGrammar

_DEFAULT_ALLOCATION = "1n8g"
_DEFAULT_STRATEGY = "fsdp2tp1"
_ALLOCATION = re.compile(r"0*([1-9][0-9]*)[nN][a-z]*0*([1-9][0-9]*)[gG][a-z]*")
_SWAPPED = re.compile(r"0*([1-9][0-9]*)[gG][a-z]*0*([1-9][0-9]*)[nN][a-z]*")
_NODES_ONLY = re.compile(r"0*([1-9][0-9]*)[nN](?:odes?)?([0-9]*)")
_SUFFIX = re.compile(r"\.(?:sh|yaml|yml)\Z")
_VERSION_TAIL = re.compile(r"[._-]+[vV]0*([1-9][0-9]*)(?:\.[0-9]+)*\Z")
_VERSION_WORD = re.compile(r"[vV][0-9]+")
_VERSION_WITHIN = re.compile(r"\.[vV]0*([1-9][0-9]*)(?=-)")
_LEADING_ZEROS = re.compile(r"((?:tp|pp|cp|ep|dp))0+(?=[1-9])")
_NO_SIZE = re.compile(r"((?:tp|pp|cp|ep))0*(?![0-9])")
_LOOKS_SPREAD = re.compile(r"fsdp|dtensor|megatron|(?:tp|pp|cp|ep)(?:[0-9]|\Z)")
_MAX_TRIED = 100


def nearest(text: str, grammar: StrategyGrammar = STANDARD) -> str:
    """A legal name with as few characters changed as these repairs find.

    Always an answer, and always legal: where little of ``text`` can be used, most of it is made
    up.
    """
    tidy, version = _tidied(text)
    best, least = f"sft-model-{_DEFAULT_ALLOCATION}-{_DEFAULT_STRATEGY}", 2 * names.MAX_LENGTH
    for tried, words in enumerate(_candidates(tidy, grammar)):
        candidate = "-".join(words) + version
        if names.is_legal(candidate, grammar):
            distance = _distance(text[: names.MAX_LENGTH], candidate, least)
            if distance < least:
                best, least = candidate, distance
        if tried >= _MAX_TRIED:
            break
    return best


def _tidied(text: str) -> tuple[list[str], str]:
    """Words with legal characters only, and the version with its dot (or nothing)."""
    text = text[: names.MAX_LENGTH - 40].strip().rsplit("/", 1)[-1]
    text = _SUFFIX.sub("", text)
    text = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")
    number = None
    if found := list(_VERSION_WITHIN.finditer(text)):
        number = found[-1][1]
        text = _VERSION_WITHIN.sub("", text)
    if match := _VERSION_TAIL.search(text):
        number = match[1]
        text = text[: match.start()]
    text = re.sub(r"\.[vV][0-9]*\Z", "", text)
    words = [word.strip("._") for word in text.split("-")]
    return _with_algorithm([word for word in words if word]), f".v{number}" if number else ""


def _with_algorithm(words: list[str]) -> list[str]:
    if words and words[0].lower() == "vlm" and len(words) > 1:
        words = [f"vlm_{words[1]}", *words[2:]]
    first = re.sub(r"[^a-z0-9_]", "", words[0].lower()).strip("_") if words else ""
    first = re.sub(r"_+", "_", first.lstrip("0123456789_"))
    if not first or first == "vlm":
        return ["sft", *words[1:]] if first else ["sft", *words]
    return [first, *words[1:]]


def _candidates(words: list[str], grammar: StrategyGrammar) -> Iterator[list[str]]:
    """Versions of ``words`` with one allocation and a whole strategy, likely ones first."""
    if len(words) < 2 or _as_allocation(words[1]):
        words = [words[0], "model", *words[1:]]
    for placed in _with_allocation(words, grammar):
        at = next(i for i, word in enumerate(placed) if i > 1 and _is_allocation(word))
        head, tail = placed[: at + 1], _without_repeats(placed[at + 1 :], grammar)
        yield [*head, *tail]
        if grammar.broken_word(tail):
            for index, word in enumerate(tail):
                for mended in _mended(word, grammar):
                    yield [*head, *tail[:index], mended, *tail[index + 1 :]]
        yield [*head, _DEFAULT_STRATEGY, *tail]
        yield [*head, _DEFAULT_STRATEGY, *(w for w in tail if not grammar.is_strategy(w))]


def _with_allocation(words: list[str], grammar: StrategyGrammar) -> Iterator[list[str]]:
    exact = [i for i, word in enumerate(words) if i > 1 and _is_allocation(word)]
    if exact:
        rest = [w for i, w in enumerate(words) if i < exact[0] or not _is_allocation(w)]
        yield [*rest[: exact[0]], words[exact[0]], *rest[exact[0] :]]
        return
    for index in range(2, len(words)):
        if mended := _as_allocation(words[index]):
            yield [*words[:index], mended, *words[index + 1 :]]
        if index + 1 < len(words) and (mended := _as_allocation(words[index] + words[index + 1])):
            yield [*words[:index], mended, *words[index + 2 :]]
    spread = [i for i, word in enumerate(words) if i > 1 and grammar.is_strategy(word)]
    for index in (*spread[:1], len(words)):
        yield [*words[:index], _DEFAULT_ALLOCATION, *words[index:]]


def _is_allocation(word: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]*n[1-9][0-9]*g", word) is not None


def _as_allocation(word: str) -> str | None:
    if match := _ALLOCATION.fullmatch(word):
        return f"{match[1]}n{match[2]}g"
    if match := _SWAPPED.fullmatch(word):
        return f"{match[2]}n{match[1]}g"
    if match := _NODES_ONLY.fullmatch(word):
        return f"{match[1]}n{match[2].lstrip('0') or 8}g"
    return None


def _without_repeats(tail: list[str], grammar: StrategyGrammar) -> list[str]:
    """Sizes without leading zeros; further backends, sizes given twice and ``long`` go."""
    kept: list[str] = []
    for word in tail:
        sound = _LEADING_ZEROS.sub(r"\1", word)
        sound = _NO_SIZE.sub(r"\g<1>1", sound) if _LOOKS_SPREAD.match(sound) else sound
        if (sound == "long" and sound in kept) or _VERSION_WORD.fullmatch(sound):
            continue
        try:
            grammar.read([*kept, sound])
        except StrategyError as error:
            # what stands before the second 'tp' of fsdp2tp2tp4 may stay
            before = sound[: error.offset]
            if error.word == len(kept) and _is_readable([*kept, before], grammar):
                kept.append(before)
            continue
        kept.append(sound)
    return kept


def _is_readable(tail: list[str], grammar: StrategyGrammar) -> bool:
    try:
        grammar.read(tail)
    except StrategyError:
        return False
    return grammar.is_strategy(tail[-1])


def _mended(word: str, grammar: StrategyGrammar) -> Iterator[str]:
    """Strategy words that differ from a broken one by one character or by its end."""
    broken = grammar.broken_word([word])
    if broken is None:
        return
    whole, rest = word[: broken[1]], word[broken[1] :]
    for key in ("tp", "pp", "cp", "ep"):
        if match := re.fullmatch(r"[a-zA-Z]+0*([1-9][0-9]*)(.*)", rest):
            yield f"{whole}{key}{match[1]}{match[2]}"
    yield whole
    yield f"{whole}-{rest}"


def _distance(a: str, b: str, limit: int) -> int:
    """Levenshtein's edit distance, or ``limit`` where it is not less."""
    # candidates differ from the text in one or two places: their common ends cost nothing
    start = _common_start(a, b)
    a, b = a[start:], b[start:]
    end = _common_start(a[::-1], b[::-1])
    a, b = a[: len(a) - end], b[: len(b) - end]
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            change = previous + (char != other)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, change)
        if min(row) >= limit:
            return limit
    return min(row[-1], limit)


def _common_start(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(a), len(b)))
