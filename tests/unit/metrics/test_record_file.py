"""Framing: whole records, cut ends, corrupt stretches, and the search behind them."""

from __future__ import annotations

import pytest
from event_bytes import frame
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.metrics.record_file import Damage, Fault, masked_crc, split

DATA = [b"first", b"the second", b"x" * 300, b"last"]
WHOLE = [frame(data) for data in DATA]
CONTENT = b"".join(WHOLE)
STARTS = [sum(map(len, WHOLE[:number])) for number in range(len(WHOLE) + 1)]


def test_the_checksum_is_the_published_one() -> None:
    # the test vector of RFC 3720, and the mask that the format puts on it
    assert crc32c(b"\0" * 32) == 0x8A9136AA
    assert masked_crc(b"\0" * 32) == ((0x8A9136AA >> 15 | 0x8A9136AA << 17) + 0xA282EAD8) % 2**32


def test_whole_records_with_their_offsets() -> None:
    found = split(CONTENT, 1000)
    assert [record.data for record in found.records] == DATA
    assert [record.offset for record in found.records] == [1000 + start for start in STARTS[:-1]]
    assert (found.skipped, found.tail, found.end) == ([], None, 1000 + len(CONTENT))


def test_cut_at_every_byte_keeps_every_whole_record() -> None:
    for length in range(len(CONTENT)):
        found = split(CONTENT[:length])
        whole = sum(start <= length for start in STARTS[1:])
        assert [record.data for record in found.records] == DATA[:whole]
        assert found.end == STARTS[whole]
        if length == STARTS[whole]:
            assert found.tail is None
        else:
            assert found.tail == Damage(Fault.CUT, STARTS[whole], length - STARTS[whole])


def test_a_changed_byte_costs_its_record_and_no_other() -> None:
    for place in range(len(CONTENT)):
        changed = bytearray(CONTENT)
        changed[place] ^= 0x40
        hit = sum(start <= place for start in STARTS[1:])
        found = split(bytes(changed))
        kept = [data for number, data in enumerate(DATA) if number != hit]
        assert [record.data for record in found.records] == kept
        if hit == len(DATA) - 1:
            assert found.tail is not None
            assert found.tail.offset == STARTS[hit]
        else:
            assert found.skipped == [Damage(Fault.CORRUPT, STARTS[hit], len(WHOLE[hit]))]
            assert found.tail is None


@pytest.mark.parametrize("junk", [b"\0" * 5000, b"\xff" * 5000, b"\0\0\0\0\x01" * 1000])
def test_a_corrupt_end_is_told_from_a_corrupt_middle(junk: bytes) -> None:
    found = split(CONTENT + junk)
    assert [record.data for record in found.records] == DATA
    assert found.tail == Damage(Fault.CORRUPT_TAIL, len(CONTENT), 5000)
    between = split(WHOLE[0] + junk + WHOLE[1])
    assert [record.data for record in between.records] == DATA[:2]
    assert between.skipped == [Damage(Fault.CORRUPT, len(WHOLE[0]), 5000)]
    assert between.tail is None


@given(st.binary(max_size=400))
def test_any_bytes_are_accounted_for(content: bytes) -> None:
    found = split(content)
    held = sum(len(frame(record.data)) for record in found.records)
    lost = sum(damage.size for damage in found.skipped)
    assert held + lost + (found.tail.size if found.tail else 0) == len(content)
