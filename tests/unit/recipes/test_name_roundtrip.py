"""Every name of the documented grammar round-trips: drawn production by production."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evenkeel.recipes import name
from evenkeel.recipes.name import RecipeName
from evenkeel.recipes.strategy import FLAGS, SIZES, STANDARD, Strategy

NUMBER = st.integers(1, 4096)
ALGO = st.from_regex(r"[a-z][a-z0-9]{0,5}(_[a-z0-9]{1,4})?", fullmatch=True).filter(
    lambda word: word != "vlm" and not word.startswith("vlm_")
)
LETTERS = "abkKlmnptvAB0123456789"
PLAIN = st.builds(
    lambda first, mark, last: first + mark + last,
    st.text(LETTERS, min_size=1, max_size=6),
    st.sampled_from(["", ".", "_"]),
    st.text(LETTERS, min_size=1, max_size=3),
)
BACKENDS = sorted(set(STANDARD.backends) - {"automodel"})


def is_plain(word: str) -> bool:
    """Reads as a model's word or a modifier only."""
    if word == "long" or STANDARD.is_strategy(word):
        return False
    return name.is_legal(f"sft-m-1n8g-tp1-{word}-end")


WORD = PLAIN.filter(is_plain)


@st.composite
def strategy_words(draw: st.DrawFn) -> tuple[Strategy, list[str]]:
    """A strategy in one or two words, with its fields."""
    backend = draw(st.sampled_from([None, *BACKENDS]))
    sizes = draw(st.dictionaries(st.sampled_from(SIZES), NUMBER, max_size=4))
    if "fsdp" in sizes:  # fsdp1 and fsdp2 would name a version
        sizes["fsdp"] += 2
        backend = None if backend in ("fsdp", "fsdp1", "fsdp2") else backend
    if backend is None and not sizes:
        sizes = {"tp": draw(NUMBER)}
    sp = draw(st.booleans())
    glued = "".join(f"{key}{size}" for key, size in sizes.items()) + "sp" * sp
    stated = STANDARD.backends[backend] if backend else None
    if stated is None and "fsdp" in sizes:
        stated = "fsdp2"
    apart = bool(backend and sizes and draw(st.booleans()))
    words = [backend or "", glued] if apart else [(backend or "") + glued]
    return Strategy(backend=stated, sp=sp, **sizes), words


@st.composite
def legal_names(draw: st.DrawFn) -> tuple[str, RecipeName]:
    """The text of a name and the fields it was made from."""
    strategy, spread = draw(strategy_words())
    modifiers = draw(st.lists(WORD, max_size=3))
    long = draw(st.booleans())
    others = [*modifiers, *(["long"] if long else [])]
    tail = draw(st.permutations([*spread, *others]))
    model = draw(st.lists(WORD, min_size=1, max_size=4))
    vlm, algo, version = draw(st.booleans()), draw(ALGO), draw(st.none() | NUMBER)
    nodes, gpus = draw(NUMBER), draw(NUMBER)
    fields = RecipeName(
        algo=algo,
        vlm=vlm,
        model="-".join(model),
        num_nodes=nodes,
        gpus_per_node=gpus,
        strategy=strategy,
        modifiers=tuple(word for word in tail if word in modifiers),
        long=long,
        version=version,
        tail=tuple(tail),
    )
    text = "-".join(["vlm_" * vlm + algo, *model, f"{nodes}n{gpus}g", *tail])
    return text + (f".v{version}" if version else ""), fields


@given(legal_names())
def test_every_legal_name_is_read_into_its_fields_and_written_back(
    drawn: tuple[str, RecipeName],
) -> None:
    text, fields = drawn
    read = name.parse(text)
    assert str(read) == text
    assert read == fields
    assert name.is_legal(text)


@given(legal_names())
def test_names_built_from_fields_alone_have_those_fields(drawn: tuple[str, RecipeName]) -> None:
    _, fields = drawn
    built = RecipeName.build(
        algo=fields.algo,
        vlm=fields.vlm,
        model=fields.model,
        num_nodes=fields.num_nodes,
        gpus_per_node=fields.gpus_per_node,
        strategy=fields.strategy,
        modifiers=fields.modifiers,
        long=fields.long,
        version=fields.version,
    )
    assert {**built.to_json(), "name": ""} == {**fields.to_json(), "name": ""}


@given(
    st.lists(WORD.filter(lambda word: word[-1] not in "kK"), min_size=1, max_size=3),
    st.sampled_from(["1K", "8K", "24K", "32k"]),
    st.none() | NUMBER,
)
def test_names_with_a_context_length_round_trip(
    model: list[str], context: str, version: int | None
) -> None:
    text = "-".join(["grpo", *model, context]) + (f".v{version}" if version else "")
    read = name.parse(text)
    assert (str(read), read.model, read.context) == (text, "-".join(model), context)
    assert read.needs_declaration


@given(legal_names(), st.data())
def test_a_damaged_name_is_read_or_gets_a_legal_neighbour(
    drawn: tuple[str, RecipeName], data: st.DataObject
) -> None:
    text, _ = drawn
    cut = data.draw(st.integers(0, len(text) - 1))
    insert = data.draw(st.sampled_from(["", "-", ".", "x", "7", " ", "é"]))
    damaged = text[:cut] + insert + text[cut + 1 :]
    try:
        assert str(name.parse(damaged)) == damaged
    except name.InvalidNameError as error:
        assert name.is_legal(error.nearest)
        assert error.nearest in str(error)


def test_flags_are_no_sizes() -> None:
    assert not set(FLAGS) & set(SIZES)
