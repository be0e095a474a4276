"""The first real failure in what many ranks printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.crash_log import MAX_LINES, CrashKind, find_crash

ONE = """\
step 3 of 10
Traceback (most recent call last):
  File "train.py", line 3, in <module>
    main()
  File "loss.py", line 7, in loss
    assert logits.shape == labels.shape
AssertionError: shapes differ
some later line
"""

TORCHRUN = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "train.py", line 9, in step
[rank0]: Traceback (most recent call last):
[rank1]:     loss.backward()
[rank0]:   File "train.py", line 9, in step
[rank1]: ValueError: expected 4 experts, got 3
[rank0]: torch.distributed.DistBackendError: NCCL error: remote process exited
W1120 10:11:12.123 torch/distributed/elastic/multiprocessing/api.py:900] Sending SIGTERM
Traceback (most recent call last):
  File "/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
"""

PARTNER_FIRST = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "a.py", line 1, in <module>
[rank0]: RuntimeError: Connection closed by peer
[rank3]: Traceback (most recent call last):
[rank3]:   File "b.py", line 2, in <module>
[rank3]: KeyError: 'input_ids'
"""

CHAINED = """\
Traceback (most recent call last):
  File "a.py", line 1, in load
KeyError: 'lr'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "a.py", line 9, in <module>
ConfigError: no learning rate
"""

GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 1, in <module>
  | ExceptionGroup: two (1 sub-exception)
  +-+---------------- 1 ----------------
    | ValueError: x
    +------------------------------------
"""


def test_the_traceback_and_not_the_last_line() -> None:
    crash = find_crash(ONE)
    assert crash is not None
    assert crash.headline == "AssertionError: shapes differ"
    assert crash.text.splitlines()[0] == "Traceback (most recent call last):"
    assert crash.text.splitlines()[-1] == "AssertionError: shapes differ"
    assert crash.kind is CrashKind.CODE


def test_of_many_ranks_the_one_that_failed_first_by_itself() -> None:
    crash = find_crash(TORCHRUN)
    assert crash is not None
    assert crash.headline == "ValueError: expected 4 experts, got 3"
    assert crash.rank == "[rank1]:"
    assert "remote process" not in crash.text
    assert "loss.backward()" in crash.text


def test_a_rank_that_lost_its_partner_is_not_the_cause() -> None:
    crash = find_crash(PARTNER_FIRST)
    assert crash is not None
    assert (crash.headline, crash.rank) == ("KeyError: 'input_ids'", "[rank3]:")


def test_chained_tracebacks_stay_together() -> None:
    crash = find_crash("before\n" + CHAINED + "after\n")
    assert crash is not None
    assert crash.headline == "KeyError: 'lr'"
    assert crash.text == CHAINED.rstrip()


def test_exception_groups_and_colours() -> None:
    assert find_crash(GROUP) is not None
    crash = find_crash(ONE.replace("AssertionError:", "\x1b[1;31mAssertionError\x1b[0m:"))
    assert crash is not None
    assert crash.headline == "AssertionError: shapes differ"


@pytest.mark.parametrize(
    ("log", "kind", "word"),
    [
        ("ok\nFatal Python error: Segmentation fault\n", CrashKind.CODE, "Segmentation"),
        ("evenkeel: error: no such key\n", CrashKind.CODE, "no such key"),
        (
            "slurmstepd-n1: error: StepId=5.batch exceeded memory limit (2 > 1), being killed\n",
            CrashKind.HOST_MEMORY,
            "exceeded",
        ),
        (
            "Traceback (most recent call last):\n  x\ntorch.OutOfMemoryError: CUDA out of memory\n",
            CrashKind.DEVICE_MEMORY,
            "CUDA",
        ),
        (
            "Traceback (most recent call last):\n  x\nOSError: [Errno 116] Stale file handle\n",
            CrashKind.HARDWARE,
            "Stale",
        ),
        (
            "Traceback (most recent call last):\n  x\nRuntimeError: uncorrectable ECC error\n",
            CrashKind.HARDWARE,
            "ECC",
        ),
        (
            "Traceback (most recent call last):\n  x\n"
            "RuntimeError: CUDA error: an illegal memory access was encountered; Xid 31\n",
            CrashKind.CODE,
            "illegal",
        ),
        (
            "Traceback (most recent call last):\n  x\nValueError: loss is nan\n",
            CrashKind.CODE,
            "nan",
        ),
    ],
)
def test_what_kind_of_failure(log: str, kind: CrashKind, word: str) -> None:
    crash = find_crash("step 1\n" + log)
    assert crash is not None
    assert crash.kind is kind
    assert word in crash.headline


def test_a_long_traceback_keeps_its_ends() -> None:
    frames = "".join(f'  File "f{number}.py"\n' for number in range(500))
    crash = find_crash(f"Traceback (most recent call last):\n{frames}RecursionError: too deep\n")
    assert crash is not None
    lines = crash.text.splitlines()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == "RecursionError: too deep"


OFF_THE_BUS = (
    "[ 8123.4] NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, name=python, GPU has fallen off the bus."
)
LOST_PARTNER = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "train.py", line 9, in step
[rank1]: torch.distributed.DistBackendError: NCCL error: remote process exited
"""
LAUNCH_FAILURE = """\
Traceback (most recent call last):
  File "train.py", line 9, in step
torch.AcceleratorError: CUDA error: unspecified launch failure
"""


@pytest.mark.parametrize(
    "log",
    [
        f"step 7\n{OFF_THE_BUS}\n",
        "NVRM: Xid (PCI:0000:3b:00): 48, pid=1, Ch 00000010\nnode-3: epilog done\n",
        f"{LOST_PARTNER}{OFF_THE_BUS}\n",
        f"{OFF_THE_BUS}\nAborted (core dumped)\n",
    ],
)
def test_the_drivers_own_line_tells_a_broken_device_without_a_traceback(log: str) -> None:
    crash = find_crash(log)
    assert crash is not None
    assert crash.kind is CrashKind.HARDWARE
    assert "NVRM: Xid" in crash.headline


def test_a_device_error_is_the_hardwares_where_the_driver_says_so() -> None:
    alone = find_crash(LAUNCH_FAILURE)
    explained = find_crash(f"{LAUNCH_FAILURE}some later line\n{OFF_THE_BUS}\n")
    assert alone is not None
    assert explained is not None
    assert (alone.kind, explained.kind) == (CrashKind.CODE, CrashKind.HARDWARE)
    assert alone.text == explained.text


@pytest.mark.parametrize("number", [13, 31, 43, 45])
def test_an_xid_that_programs_cause_is_no_fault_of_the_hardware(number: int) -> None:
    line = f"NVRM: Xid (PCI:0000:3b:00): {number}, pid=4711, name=python, Ch 00000010\n"
    assert find_crash(line) is None
    for log in (f"{LAUNCH_FAILURE}{line}", f"{line}Aborted (core dumped)\n"):
        crash = find_crash(log)
        assert crash is not None
        assert crash.kind is CrashKind.CODE


def test_a_bug_stays_a_bug_beside_a_broken_device() -> None:
    crash = find_crash(f"{ONE}{OFF_THE_BUS}\n")
    assert crash is not None
    assert crash.kind is CrashKind.CODE


NEVER_MET = """\
Traceback (most recent call last):
  File "rendezvous.py", line 156, in _create_tcp_store
torch.distributed.DistNetworkError: The client socket has timed out

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "rendezvous.py", line 180, in _create_tcp_store
torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection has failed.
CRASHED sft-a: the trainer exited with status 143 after step 0:
Traceback (most recent call last):
  File
"/a/long/path/rendezvous.py",
line 156, in _create_tcp_store
"""


def test_nodes_that_never_met_are_a_fault_of_the_network_and_quotes_are_no_tracebacks() -> None:
    crash = find_crash(NEVER_MET)
    assert crash is not None
    assert crash.headline.startswith("torch.distributed.DistNetworkError: The client socket")
    assert crash.kind is CrashKind.HARDWARE


def test_a_good_log_has_no_crash() -> None:
    assert find_crash("step 1\nstep 2\ndone\n") is None
    assert find_crash("") is None


@given(
    st.text(alphabet=st.sampled_from("Tab :\n[]0|+"), max_size=200),
    st.integers(0, len(TORCHRUN)),
)
def test_of_any_text_the_headline_is_a_line_that_is_in_it(text: str, cut: int) -> None:
    for log in (text, TORCHRUN[cut:] + text, text + TORCHRUN[:cut], CHAINED[:cut] + text):
        crash = find_crash(log)
        if crash is not None:
            assert crash.headline or crash.text  # a traceback may be cut off before its exception
            assert crash.headline in log
            assert "\n" not in crash.headline
            assert crash.rank in log
            assert all(line.strip() in log for line in crash.text.splitlines())
