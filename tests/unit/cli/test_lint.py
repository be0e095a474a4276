"""``evenkeel lint`` as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from evenkeel.cli.main import main

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/lint"))

from own_tree import RECIPE, SCRIPT, make_own_tree, replace, write

NIGHTLY = "tests/test_suites/nightly.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_own_tree(tmp_path)


def lint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main(["lint", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_nothing_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = lint(capsys, "--root", root)
    assert (status, out) == (0, "1 driver, 1 recipe and 1 listing checked: nothing to report\n")


def test_text_says_place_code_message_and_fix(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(root, SCRIPT, "NUM_NODES=2", "NUM_NODES=1")
    status, out, _ = lint(capsys, "--root", root)
    assert status == 1
    assert out == (
        f"{SCRIPT}:5: EK203 the CONFIG block has NUM_NODES=1, but the name says 2n8g\n"
        "    fix: write NUM_NODES=2, or rename the recipe\n"
        "1 driver, 1 recipe and 1 listing checked: 1 finding\n"
    )


def test_json_has_the_promised_shape(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(root, SCRIPT, "NUM_NODES=2", "NUM_NODES=1")
    status, out, _ = lint(capsys, "--root", root, "--format", "json")
    assert status == 1
    assert json.loads(out) == {
        "checked": {"drivers": 1, "recipes": 1, "suites": 1},
        "findings": [
            {
                "code": "EK203",
                "path": SCRIPT,
                "line": 5,
                "message": "the CONFIG block has NUM_NODES=1, but the name says 2n8g",
                "fix": "write NUM_NODES=2, or rename the recipe",
            }
        ],
    }


def test_the_formats_of_other_tools(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(root, SCRIPT, 'mean(data["train/loss"], -10, 0)', 'data["train/loss"]["250"]')
    _, github, _ = lint(capsys, "--root", root, "--format", "github")
    assert github.startswith(f"::warning file={SCRIPT},line=17,title=EK504 a single step")
    assert github.count("\n") == 1
    assert "%0Afix: " in github
    _, sarif, _ = lint(capsys, "--root", root, "--format", "sarif")
    (run,) = json.loads(sarif)["runs"]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "EK504"
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == (SCRIPT, {"startLine": 17})
    _, junit, _ = lint(capsys, "--root", root, "--format", "junit")
    suite = ElementTree.fromstring(junit)
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert 'data["train/loss"]["250"] < 0.9' in (failure.text or "")
    (root / SCRIPT).unlink()
    (root / RECIPE).unlink()
    (root / NIGHTLY).write_text("", encoding="utf-8")
    _, junit, _ = lint(capsys, "--root", root, "--format", "junit")
    assert ElementTree.fromstring(junit).get("failures") == "0"


def broken(root: Path) -> None:
    """One of everything that can be repaired with certainty, and some that cannot."""
    recipe = (
        "# what it is for\n"
        "defaults: ../../sft.yaml\n\n"
        "policy:\n"
        "  model_name: meta-llama/Llama-3.1-8B\n"
        "  backend: fsdp2  # the default\n"
        "  parallel:\n"
        "    # two cards\n"
        "    tensor_parallel_size: 2  # fits one card\n"
        "    pipeline_parallel_size: 1\n"
        "  optimizer:\n"
        "    betas:\n      - 0.9\n      - 0.95\n"
        "    lr: 2e-5\n"
        "sft: {val_period: 50, val_at_start: false}\n"
        "checkpointing:\n"
        "  # keep it so\n"
        "  save_period: 50\n"
        "cluster:\n"
        "  num_nodes: 2\n"
    )
    (root / RECIPE).write_text(recipe, encoding="utf-8")
    replace(root, SCRIPT, "NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))",
            "NUM_RUNS=2")  # fmt: skip
    (root / SCRIPT).chmod(0o640)
    name = SCRIPT.rsplit("/", 1)[1]
    write(root, "tests/test_suites/nightly.txt", f"# all\nllm/old/{name}  # moved\nllm/gone.sh\n")


def test_fix_repairs_what_is_certain_and_nothing_else(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(root)
    status, out, err = lint(capsys, "--root", root, "--fix")
    assert (root / RECIPE).read_text(encoding="utf-8") == (
        "# what it is for\n"
        "defaults: ../../sft.yaml\n\n"
        "policy:\n"
        "  model_name: meta-llama/Llama-3.1-8B\n"
        "  parallel:\n"
        "    # two cards\n"
        "    tensor_parallel_size: 2  # fits one card\n"
        "  optimizer:\n"
        "    lr: 2e-5\n"
        "sft: {val_period: 50, val_at_start: false}\n"
        "  # keep it so\n"
        "cluster:\n"
        "  num_nodes: 2\n"
    )
    rows = (root / SCRIPT).read_text(encoding="utf-8").splitlines()
    assert rows[7] == (
        "NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up"
    )
    assert (root / SCRIPT).stat().st_mode & 0o777 == 0o750
    assert (root / NIGHTLY).read_text(encoding="utf-8") == (
        f"# all\n{SCRIPT.removeprefix('tests/test_suites/')}  # moved\nllm/gone.sh\n"
    )
    assert status == 1
    left = [line.split()[1] for line in out.splitlines() if ": EK" in line]
    assert left == ["EK405", "EK105"]
    assert err.count("repaired") == 7


def test_fix_twice_is_fix_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(root)
    lint(capsys, "--root", root, "--fix")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    _, _, err = lint(capsys, "--root", root, "--fix")
    assert err == ""
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_fix_is_limited_to_the_files_that_are_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(root)
    recipe = (root / RECIPE).read_bytes()
    lint(capsys, "--root", root, "--fix", root / SCRIPT)
    assert (root / RECIPE).read_bytes() == recipe
    assert os.access(root / SCRIPT, os.X_OK)


def test_paths_are_found_from_here_and_from_the_root(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(root, SCRIPT, "NUM_NODES=2", "NUM_NODES=1")
    monkeypatch.chdir(root / "tests/test_suites/llm")
    for path in (Path(SCRIPT).name, SCRIPT, "tests", root / SCRIPT):
        status, out, _ = lint(capsys, path)
        assert (status, out.split(":")[0]) == (1, SCRIPT)
    assert lint(capsys, RECIPE)[0] == 0
    write(root, "docs/mkdocs.yml", "theme: !!python/name:x [\n")
    monkeypatch.chdir(root)
    assert lint(capsys, ".")[1].startswith(f"{SCRIPT}:5: EK203")
    assert lint(capsys, ".")[1].endswith("1 driver, 1 recipe and 1 listing checked: 1 finding\n")
    assert lint(capsys, "docs/mkdocs.yml", "docs")[0] == 0


def test_rules_can_be_chosen_and_explained(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(root, SCRIPT, "NUM_NODES=2", "NUM_NODES=1")
    assert lint(capsys, "--root", root, "--ignore", "EK203")[0] == 0
    assert lint(capsys, "--root", root, "--select", "EK1,EK405")[0] == 0
    assert lint(capsys, "--root", root, "--select", "ek2")[0] == 1
    status, out, _ = lint(capsys, "--explain", "ek203")
    assert status == 0
    assert out.startswith("EK203 (error): number of nodes disagrees\n")
    assert "EK902  waiver without effect" in lint(capsys, "--explain", "all")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--select", "EK777"], "there is no rule 'EK777'"),
        (["--explain", "EK20"], "there is no rule 'EK20'"),
        (["no-such-file.sh"], "there is no file no-such-file.sh"),
        (["/etc/hostname"], "is not below"),
        (["--base", "no-such-revision"], "git knows no revision"),
        (["--changed-since=-x"], "git knows no revision"),
        (["--jobs", "0"], "at least 1 process"),
        (["--root", "/nonexistent"], "there is no such folder"),
        (["--root", "/etc"], "there is neither tests/test_suites nor"),
    ],
)
def test_bad_usage_ends_with_2(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = arguments if "--root" in arguments else ["--root", str(root), *arguments]
    status, _, err = lint(capsys, *given)
    assert status == 2
    assert message in err


def test_only_what_changed_since_a_revision(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, "tests/test_suites/llm/sft-llama3.1-8b-1n8g-fsdp2tp1.sh", "# nothing\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run(["git", "-C", str(root), *identity, *command], check=True)
    assert lint(capsys, "--root", root)[0] == 1
    status, out, _ = lint(capsys, "--root", root, "--changed-since", "HEAD")
    assert (status, out) == (0, "0 drivers, 0 recipes and 0 listings checked: nothing to report\n")
    replace(root, SCRIPT, "NUM_NODES=2", "NUM_NODES=1")
    status, out, _ = lint(capsys, "--root", root, "--changed-since", "HEAD")
    assert status == 1
    assert out.startswith(f"{SCRIPT}:5: EK203")


def test_help_needs_no_yaml() -> None:
    code = (
        "import sys; from evenkeel.cli.main import main\n"
        "try: main(['lint', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'omegaconf', 'numpy', 'rich', 'scipy'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
