"""Finding why a trainer died in what its ranks printed. Pure: text in, text out.

When one rank of many fails, its own traceback comes first and is followed by those of its peers,
which only lost a partner, and by the launcher's. So the *first real* traceback is wanted, not the
last line.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

MAX_LINES = 60
"""Lines kept of a long traceback: the first and the last half of them."""

_START = re.compile(
    r"^(?P<prefix>.*?)(?P<plus>\s*\+\s(?:Exception Group )?)?Traceback \(most recent"
)
_CHAIN = ("During handling of the above", "The above exception was the direct cause")
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(\[.*\])?(:|$)")
# exceptions that say "my partner, or my launcher, ended": symptoms of somebody else's failure
_SECONDARY = re.compile(
    r"ChildFailedError|SignalException|KeyboardInterrupt|DistBackendError|DistNetworkError"
    r"|RendezvousConnectionError|Connection (closed|reset|refused)"
    r"|Broken pipe|Socket Timeout|BrokenPipeError|EOFError"
    r"|ConnectionResetError|watchdog|store.*timeout",
    re.IGNORECASE,
)
_FATAL = re.compile(
    r"Fatal Python error|Segmentation fault|illegal memory access|terminate called|Bus error"
    r"|Aborted|core dumped|evenkeel: error:|\bSIG(SEGV|ABRT|BUS|FPE)\b"
)


class CrashKind(enum.Enum):
    """What a log says about a crash, as far as it matters for what to do next."""

    CODE = "code"
    DEVICE_MEMORY = "device memory"
    HOST_MEMORY = "host memory"
    HARDWARE = "hardware"


_HOST_MEMORY = re.compile(
    r"[Ee]xceeded (job |step )?memory limit|oom[-_]kill|Out [Oo]f [Mm]emory|OUT_OF_MEMORY"
    r"|Cannot allocate memory|MemoryError|DefaultCPUAllocator: can't allocate"
)
_DEVICE_MEMORY = re.compile(r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError")
# how a program sees that its device is gone, or that it has done something wrong itself
_DEVICE_ERROR = re.compile(r"CUDA error|CUDA driver error|CUBLAS_STATUS|CUDNN_STATUS|NCCL error")
# whoever sees one of these has a fault in the code or the numbers, on whatever machine
_NEVER_HARDWARE = re.compile(
    r"illegal memory access|device-side assert|AssertionError|\bnan\b|non-finite", re.IGNORECASE
)
# an Xid of the NVIDIA driver; 13, 31, 43 and 45 are what a program does to itself
# (https://docs.nvidia.com/deploy/xid-errors)
_XID = r"\bX(?:id|ID)\b[ :]*(?:\([^)]*\))?[ :]*(?!(?:13|31|43|45)\b)\d+"
# the driver's words, believed without a traceback: nothing but a broken device causes them
_DEVICE_FAULT = re.compile(rf"uncorrectable ECC|fallen off the bus|{_XID}")
_HARDWARE = re.compile(
    rf"{_DEVICE_FAULT.pattern}|NVLink.*error|nccl(System|Remote)Error"
    r"|unhandled system error|ibv_\w+ failed|Stale file handle|Remote I/O error"
    r"|Input/output error|Transport endpoint is not connected|no CUDA-capable device"
    r"|RendezvousConnectionError|RendezvousTimeoutError"
    r"|CUDA driver initialization failed|CUDA unknown error|slurmstepd: error: .*launch"
)


@dataclass(frozen=True)
class Crash:
    """Why it died.

    Attributes:
        headline: one line: the exception, or the line that tells most.
        text: the traceback, or the lines around ``headline``; without the prefix of the rank.
        rank: the prefix by which the log labels the rank, such as ``[rank3]:``; often empty.
        kind: what it means for the next step.
    """

    headline: str
    text: str
    rank: str
    kind: CrashKind


@dataclass
class _Traceback:
    prefix: str
    lines: list[str]
    exception: str = ""


def find_crash(log: str) -> Crash | None:
    """The first real failure in a log; None where nothing looks like one."""
    log = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", log)
    tracebacks = _tracebacks(log.splitlines())
    primary = [found for found in tracebacks if not _SECONDARY.search(found.exception)]
    chosen = next(iter([*primary, *tracebacks]), None)
    told_otherwise = _FATAL.search(log) or _DEVICE_FAULT.search(log)
    if chosen is not None and (primary or not told_otherwise):
        text = "\n".join(_shortened(chosen.lines))
        return Crash(chosen.exception, text, chosen.prefix.strip(), _kind(text, log))
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if any(sign.search(line) for sign in (_FATAL, _HOST_MEMORY, _DEVICE_FAULT)):
            text = "\n".join(lines[max(0, index - 3) : index + 12])
            return Crash(line, text, "", _kind(text, log))
    return None


def _tracebacks(lines: list[str]) -> list[_Traceback]:
    """All tracebacks in order of their first lines; chained ones are one.

    A line that does not carry the traceback's prefix was printed by another rank in between.
    """
    open_ones: dict[str, _Traceback] = {}
    found: list[_Traceback] = []
    last_of: dict[str, _Traceback] = {}
    for line in lines:
        if start := _START.match(line):
            prefix = start["prefix"]
            block = last_of.get(prefix)
            if block is None or not _is_chained(block):
                block = _Traceback(prefix, [])
                found.append(block)
            block.lines.append(line[len(prefix) :])
            open_ones[prefix] = last_of[prefix] = block
            continue
        for prefix, block in list(open_ones.items()):
            if not line.startswith(prefix):
                continue
            rest = line[len(prefix) :]
            block.lines.append(rest)
            if rest and not rest[0].isspace() and not rest.startswith(("+", "|")):
                block.exception = block.exception or rest.strip()
                if not _EXCEPTION.match(block.exception):  # quoted elsewhere, and wrapped there
                    found.remove(block)
                    del last_of[prefix]
                del open_ones[prefix]
            break
        else:
            for prefix, block in last_of.items():
                if line.startswith(prefix) and _may_follow(block, line[len(prefix) :]):
                    block.lines.append(line[len(prefix) :])
                    break
    return found


def _may_follow(block: _Traceback, line: str) -> bool:
    """Blank lines and the sentence between two chained tracebacks belong to them."""
    if line.startswith(_CHAIN):
        return True
    return not line.strip() and not (len(block.lines) > 1 and not block.lines[-1].strip())


def _is_chained(block: _Traceback) -> bool:
    tail = [line for line in block.lines[-3:] if line.strip()]
    return bool(tail) and tail[-1].startswith(_CHAIN)


def _shortened(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    if len(lines) <= MAX_LINES:
        return lines
    half = MAX_LINES // 2
    return [*lines[:half], f"  ... {len(lines) - 2 * half} lines ...", *lines[-half:]]


def _kind(text: str, log: str) -> CrashKind:
    if _DEVICE_MEMORY.search(text):
        return CrashKind.DEVICE_MEMORY
    if _NEVER_HARDWARE.search(text):
        return CrashKind.CODE
    # Slurm's own line about memory stands outside of any traceback
    if _HOST_MEMORY.search(text) or re.search(r"slurmstepd\S*: error: .*(memory|oom)", log, re.I):
        return CrashKind.HOST_MEMORY
    if _HARDWARE.search(text) or (_DEVICE_ERROR.search(text) and _DEVICE_FAULT.search(log)):
        return CrashKind.HARDWARE
    return CrashKind.CODE
