"""metrics.json: what is written reads back, and every other shape is named."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.metrics import series


def test_the_written_text_is_sorted_and_one_metric_a_line() -> None:
    metrics = {"train/loss": {10: 0.5, 9: 1.0, 100: math.nan}, "a": {1: math.inf, 2: -math.inf}}
    assert series.dumps(metrics) == (
        "{\n"
        '  "a": {"1": Infinity, "2": -Infinity},\n'
        '  "train/loss": {"9": 1.0, "10": 0.5, "100": NaN}\n'
        "}\n"
    )
    assert series.dumps({}) == "{}\n"


@given(st.dictionaries(st.text(), st.dictionaries(st.integers(-5, 10**12), st.floats())))
def test_what_is_written_reads_back(metrics: dict[str, dict[int, float]]) -> None:
    text = series.dumps(metrics)
    back = series.loads(text)
    assert series.dumps(back) == text
    assert {name: list(steps) for name, steps in back.items()} == {
        name: sorted(metrics[name]) for name in sorted(metrics)
    }


def test_files_of_other_writers_are_read() -> None:
    text = json.dumps({"a": {"2": 1, "1": "NaN", "3": "-inf"}, "b": {"10": 1, "9": 2.5}}, indent=4)
    found = series.loads(text)
    assert list(found["a"]) == [1, 2, 3]
    assert math.isnan(found["a"][1])
    assert found["a"][3] == -math.inf
    assert found["b"] == {9: 2.5, 10: 1.0}
    assert {type(value) for steps in found.values() for value in steps.values()} == {float}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"1": 0.5, "2"', "cut short"),
        ("", "not JSON"),
        ("[1, 2]", "a list at the top"),
        ('{"a": 1.5}', "metric 'a': expected an object"),
        ('{"a": [1.5]}', "found a list"),
        ('{"a": {"1": null}}', "metric 'a', step 1: null is not a number"),
        ('{"a": {"1": true}}', "step 1: true"),
        ('{"a": {"7": "high"}}', "step 7: the text 'high'"),
        ('{"a": {"7": {"x": 1}}}', "step 7: an object"),
        ('{"a": {"x": 1.0}}', "step 'x' is not a whole number"),
        ('{"a": {"1.5": 1.0}}', "step '1.5'"),
        ('{"a": {"1_0": 1.0}}', "step '1_0'"),
        ('{"a": {"²": 1.0}}', "step '²'"),
        ('{"a": {"1": 1.0}, "a": {"2": 1.0}}', "metric 'a' stands in the file twice"),
        ('{"a": {"1": 1.0, "1": 2.0}}', "step 1 stands there twice"),
        ('{"a": {"1": 1.0, "01": 2.0}}', "step 1 stands there twice"),
        ('{"a": {"1": 1' + "0" * 400 + "}}", "step 1: a number too large"),
        ('{"a": {"1": ' + "9" * 5000 + "}}", "not JSON of a sensible size"),
        ("[" * 200_000, "not JSON"),
    ],
)
def test_another_shape_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        series.load(path)
    assert message in str(caught.value)
    assert caught.value.path == str(path)


def test_every_truncation_of_a_file_is_refused() -> None:
    text = series.dumps({"train/loss": {1: 0.5, 2: math.nan}, "b": {1: 2.0}}).rstrip()
    for length in range(len(text)):
        with pytest.raises(InputError):
            series.loads(text[:length])


def test_a_missing_file_a_folder_and_binary_content_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="evenkeel collect"):
        series.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot read"):
        series.load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        series.load(tmp_path / "binary")


def test_save_and_last_step(tmp_path: Path) -> None:
    metrics = {"a": {1: 1.0, 12: 2.0}, "b": {7: 1.0}, "c": {}}
    series.save(tmp_path / "metrics.json", metrics)
    assert series.load(tmp_path / "metrics.json") == metrics
    assert series.last_step(metrics) == 12
    assert series.last_step({"c": {}}) is None


def test_same_value() -> None:
    assert series.is_same(math.nan, math.nan)
    assert series.is_same(1.0, 1.0)
    assert not series.is_same(math.nan, 1.0)
    assert not series.is_same(math.inf, -math.inf)


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; import evenkeel.metrics.series\n"
        "print(sorted({'numpy', 'google.protobuf', 'rich', 'omegaconf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"1": 0.5, "2": 0.25}, "b": {}}',
        '{"a": {"2": 0.5, "1": 1e-3}}',
        '{"a": {"1": 0.5, "2": 3}}',
        '{"a": {"1": NaN, "2": "inf"}}',
        '{"a\\":b": {"-1": 0.5}}',
        '{"a" : {"1" : 0.1}}',
        "{}",
    ],
)
def test_the_fast_way_of_reading_gives_what_the_careful_one_gives(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    fast, careful = series.load(path), series.loads(text)
    assert repr(fast) == repr(careful)
    assert [list(steps) for steps in fast.values()] == [list(s) for s in careful.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"1": 0.5, "1": 0.25}}', "stands there twice"),
        ('{"a": {"1": 0.5, "01": 0.25}}', "stands there twice"),
        ('{"a": {"1": 0.5}, "a": {"2": 0.25}}', "stands in the file twice"),
    ],
)
def test_the_fast_way_of_reading_hides_no_mistake(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        series.load(path)
