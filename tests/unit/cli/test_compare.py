"""``evenkeel baseline`` and ``evenkeel compare`` on bare metrics files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evenkeel.cli.main import main
from evenkeel.metrics import series


def write(path: Path, seed: int, factor: float = 1.0) -> Path:
    random = np.random.default_rng(seed)
    steps = np.arange(1, 101)
    values = factor * (2 + np.exp(-steps / 20)) * (1 + 0.01 * random.standard_normal(100))
    series.save(path, {"train/loss": dict(zip(steps.tolist(), values.tolist(), strict=True))})
    return path


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    runs = [str(write(tmp_path / f"m{seed}.json", seed)) for seed in range(5)]
    path = tmp_path / "B.json"
    assert main(["baseline", "record", "--from", *runs, "--output", str(path)]) == 0
    return path


def test_compare_tells_good_from_bad(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write(tmp_path / "good.json", 50), write(tmp_path / "bad.json", 51, 1.1)
    capsys.readouterr()
    assert main(["compare", str(good), "--baseline", str(baseline), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "PASS"
    assert main(["compare", str(bad), "--baseline", str(baseline)]) == 1
    shown = capsys.readouterr().out
    assert "REGRESSED" in shown
    assert "X out of the band" in shown


def test_metrics_files_serve_as_a_baseline(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(tmp_path / f"m{seed}.json") for seed in range(1, 5)]
    new = str(tmp_path / "m0.json")
    assert main(["compare", new, "--baseline", *runs, "--pool", str(baseline.parent / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["compare", new, "--baseline", *runs]) == 0


def test_an_existing_baseline_is_not_replaced_by_accident(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ["baseline", "record", "--from", str(tmp_path / "m0.json"), "--output", str(baseline)]
    assert main(record) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*record, "--force"]) == 0


def test_a_retired_baseline_makes_runs_incomparable(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["baseline", "retire", str(baseline), "--reason", "old", "--by", "me"]) == 0
    assert main(["compare", str(tmp_path / "m0.json"), "--baseline", str(baseline)]) == 1
    assert "INCOMPARABLE" in capsys.readouterr().out
    accept = ["baseline", "accept", str(baseline), str(tmp_path / "m0.json"), "--by", "me"]
    assert main(accept) == 2
    assert main([*accept, "--reason", "new"]) == 0
    kept = json.loads(baseline.read_text())
    assert (kept["retired"], kept["accepted"]["reason"], len(kept["runs"])) == (None, "new", 1)


def test_add_show_and_diff(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "before.json"
    before.write_bytes(baseline.read_bytes())
    sixth = write(tmp_path / "m6.json", 6)
    assert main(["baseline", "add", str(baseline), str(sixth)]) == 0
    capsys.readouterr()
    assert main(["baseline", "show", str(baseline), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 6
    assert main(["baseline", "show", str(baseline)]) == 0
    assert "where a run usually is" in capsys.readouterr().out
    assert main(["baseline", "diff", str(before), str(baseline)]) == 0
    shown = capsys.readouterr().out
    assert "runs: 5 -> 6" in shown
    assert "train/loss" in shown


def test_a_difference_shows_what_differs_and_nothing_else(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def difference(other: Path) -> str:
        capsys.readouterr()
        assert main(["baseline", "diff", str(baseline), str(other)]) == 0
        return capsys.readouterr().out

    other = tmp_path / "other.json"
    other.write_bytes(baseline.read_bytes())
    assert difference(other) == "no difference\n"
    assert main(["baseline", "retire", str(other), "--reason", "old", "--by", "me"]) == 0
    date = json.loads(other.read_text())["retired"]["date"]
    assert difference(other) == (
        f"retired: no -> by me on {date}: old\nthe same values in all runs\n"
    )
    record = json.loads(baseline.read_text())
    record["platform"] = {"device": "cpu", "packages": {"torch": "2.14.0"}}
    record["directions"] = {"train/loss": "both"}
    other.write_text(json.dumps(record))
    assert difference(other) == (
        "direction of train/loss: - -> both\n"
        "platform device: - -> cpu\n"
        "platform packages torch: - -> 2.14.0\n"
        "the same values in all runs\n"
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--family-error", "2"], "family error is 2.0"),
        (["--looks", "7"], "7 looks"),
        (["--metric", "train/los"], "did you mean 'train/loss'"),
        (["--direction", "train/loss=lowr"], "did you mean 'lower'"),
    ],
)
def test_bad_options_are_named(
    baseline: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    argv = ["compare", str(tmp_path / "m0.json"), "--baseline", str(baseline), *more]
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_metrics_are_left_out_of_a_recording(tmp_path: Path) -> None:
    source, path = tmp_path / "m.json", tmp_path / "B.json"
    series.save(source, {"train/loss": {1: 2.0}, "timing/train/total_step_time": {1: 0.1}})
    record = ["baseline", "record", "--from", str(source), "--output", str(path)]
    assert main([*record, "--without", "timing/*"]) == 0
    assert list(json.loads(path.read_text())["metrics"]) == ["train/loss"]


def saved(path: Path, metrics: dict[str, dict[int, float]]) -> str:
    series.save(path, metrics)
    return str(path)


def test_what_not_all_runs_have_is_told_and_so_are_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = {step: 2.0 + 1 / step for step in range(1, 21)}
    runs = [
        saved(tmp_path / "a.json", {"loss": loss}),
        saved(tmp_path / "b.json", {"loss": loss, "accuracy": {20: 0.5}}),
        saved(tmp_path / "c.json", {"loss": {step: loss[step] for step in range(2, 21, 2)}}),
    ]
    output = str(tmp_path / "B.json")
    assert main(["baseline", "record", "--from", *runs, "--output", output]) == 0
    told = capsys.readouterr()
    assert told.out == f"[INFO] recorded 3 runs, 1 metric in {output}\n"
    assert told.err.splitlines() == [
        "[WARNING] loss: only the 10 steps that all runs have, of up to 20",
        f"[WARNING] accuracy is left out: not in {runs[0]}, {runs[2]}",
        "[WARNING] run1 and run2 are the same in every value: copies tell nothing of how runs vary",
    ]


def test_runs_that_have_nothing_in_common_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = saved(tmp_path / "a.json", {"loss": {1: 2.0, 9: 1.0}})
    others = [({"perplexity": {1: 2.0}}, "has perplexity at steps 1 to 1"), ({}, "has no metric"),
              ({"loss": {100: 2.0}}, "has loss at steps 100 to 100")]  # fmt: skip
    for metrics, words in others:
        other = saved(tmp_path / "b.json", metrics)
        record = ["baseline", "record", "--from", one, other, "--output", str(tmp_path / "B.json")]
        assert main(record) == 2
        error = capsys.readouterr().err
        assert f"{one} has loss at steps 1 to 9; {other} {words}" in error


def test_a_file_in_the_wrong_place_is_named_for_what_it_is(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "m0.json")
    for argv, words in (
        (["compare", str(baseline), "--baseline", run], "this is a baseline, where a run is"),
        (["compare", run, "--baseline", str(tmp_path / "no.json")], "no such baseline"),
        (
            ["baseline", "record", "--from", run, "--output", str(tmp_path)],
            "a folder, where a file",
        ),
    ):
        assert main(argv) == 2
        assert words in capsys.readouterr().err


def test_a_recipe_without_a_baseline_is_not_taken_for_a_slip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drivers, kept = tmp_path / "tests/test_suites/llm", tmp_path / "tests/baselines/llm/sft-a-1n8g"
    drivers.mkdir(parents=True)
    kept.mkdir(parents=True)
    (kept / "cpu.json").write_text("{}")
    (drivers / "sft-b-1n8g.sh").touch()
    for name, hint in (("sft-b-1n8g", False), ("sft-a-1n8", True)):
        assert main(["baseline", "show", name, "--root", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert f"no baseline of '{name}'" in told
        assert ("did you mean 'sft-a-1n8g'?" in told) is hint


def test_one_run_is_counted_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = saved(tmp_path / "m.json", {"train/loss": {1: 2.0}}), str(tmp_path / "B.json")
    assert main(["baseline", "record", "--from", run, "--output", path]) == 0
    capsys.readouterr()
    assert main(["baseline", "show", path]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"1 run in {path}"


def test_a_value_beyond_all_bounds_fits_its_table(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = saved(tmp_path / "huge.json", {"train/loss": dict.fromkeys(range(1, 100), 1e+300)
                                          | {100: 2e300}})  # fmt: skip
    assert main(["compare", huge, "--baseline", str(baseline)]) == 1
    out = capsys.readouterr().out
    assert "times that of the baseline" in out
    table, plot, words = out.partition("train/loss (o the run")
    assert plot and max(map(len, table.splitlines())) <= 120
    last = words.splitlines()[-2]  # a verdict is one line, however long
    assert last.startswith("REGRESSED ") and len(last) > 120


def test_a_run_that_diverged_gets_into_no_baseline(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = write(tmp_path / "lost.json", 60)
    values = series.load(lost)["train/loss"]
    series.save(lost, {"train/loss": values | dict.fromkeys(range(60, 101), float("nan"))})
    good, before = [str(tmp_path / "m0.json"), str(tmp_path / "m1.json")], baseline.read_bytes()
    for words in (
        ["record", "--from", *good, str(lost), "--output", str(tmp_path / "new.json")],
        ["record", "--from", str(lost), "--output", str(tmp_path / "new.json")],
        ["add", str(baseline), str(lost)],
        ["accept", str(baseline), str(lost), "--reason", "r"],
    ):
        assert main(["baseline", *words]) == 2
        message = capsys.readouterr().err
        assert "lost.json is nan at step" in message, words
        assert "train/loss" in message
    assert baseline.read_bytes() == before
    assert main(["compare", good[0], "--baseline", *good, str(lost)]) == 2


def test_copies_tell_nothing(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["baseline", "add", str(baseline), str(tmp_path / "m3.json")]) == 2
    assert "m3.json is the same as run4 in every value" in capsys.readouterr().err
    doubtful = str(write(tmp_path / "doubtful.json", 51, 1.01))
    told = []
    for runs in ([doubtful], [doubtful, doubtful]):
        main(["compare", *runs, "--baseline", str(baseline), "--json"])
        told.append(json.loads(capsys.readouterr().out))
    once, twice = told
    assert once["verdict"] == twice["verdict"] == "INCONCLUSIVE"
    assert once["metrics"] == twice["metrics"]
    assert "does not count" in twice["notes"][0]


def test_a_baseline_of_one_run_shows_what_it_would_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, new = write(tmp_path / "m.json", 1), write(tmp_path / "new.json", 2)
    path = str(tmp_path / "one.json")
    assert main(["baseline", "record", "--from", str(one), "--output", path]) == 0
    capsys.readouterr()
    main(["baseline", "show", path, "--json"])
    shown = json.loads(capsys.readouterr().out)["metrics"]
    main(["compare", str(new), "--baseline", path, "--json"])
    found = json.loads(capsys.readouterr().out)["metrics"]
    detectable = [
        {each["summary"]: each["minimum_detectable_change"] for each in each_way}
        for each_way in (shown, found)
    ]
    assert detectable[0]["final"] > 0.3 * detectable[1]["final"]


def test_numbers_of_one_metric_are_those_that_it_has_among_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for seed in range(3):
        paths.append(write(tmp_path / f"two{seed}.json", seed))
        curve = series.load(paths[-1])["train/loss"]
        series.save(paths[-1], {"train/loss": curve, "validation/loss": curve})
    path = str(tmp_path / "two.json")
    assert main(["baseline", "record", "--from", *map(str, paths), "--output", path]) == 0
    capsys.readouterr()
    shown = []
    for only in ([], ["--metric", "train/loss"]):
        assert main(["baseline", "show", path, "--json", *only]) == 0
        shown.append(json.loads(capsys.readouterr().out)["metrics"])
    everything, one = shown
    assert one == [each for each in everything if each["metric"] == "train/loss"]


def test_speed_stands_in_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for number, factor in enumerate((1.0, 1.0, 1.0, 2.0)):
        paths.append(write(tmp_path / f"s{number}.json", number))
        metrics = dict(series.load(paths[-1]))
        times = {step: factor * (0.5 + 0.001 * (step % 3 + number)) for step in range(1, 101)}
        series.save(paths[-1], {**metrics, "timing/train/total_step_time": times})
    *healthy, slow = map(str, paths)
    assert main(["compare", slow, "--baseline", *healthy, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "PASS"
    assert told["speed_and_memory"][0].startswith("SLOWER: timing/train/total_step_time +100")


def test_a_recipe_s_name_stands_for_its_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = str(write(tmp_path / "new.json", 1))
    name = "sft-llama-0.9m-1n1g-fsdp2tp1"
    assert main(["compare", new, "--baseline", name, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "INCOMPLETE"  # it lacks metrics
    monkeypatch.chdir(tmp_path)
    assert main(["compare", new, "--baseline", name]) == 2
    assert f"no file {name}" in capsys.readouterr().err


def test_a_pattern_that_leaves_nothing_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write(tmp_path / f"m{seed}.json", seed)) for seed in range(3)]
    words = ["--output", str(tmp_path / "B.json"), "--without", "timing/*"]
    assert main(["baseline", "record", "--from", *runs, *words]) == 0
    told = capsys.readouterr().err
    assert "--without 'timing/*' fits no metric; there are: train/loss" in told
