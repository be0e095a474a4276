"""What a running job has logged since the last look, for watching it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.metrics import event_file
from evenkeel.metrics.collection import find_event_files
from evenkeel.metrics.event_message import Decoder, Scalar


class EventFollower:
    """Reads the event files below a directory as they grow.

    Only what is new is read at each ``poll``, and only the newest value of a
    tag is kept: hundreds of runs can be followed at once. A record that is
    not whole yet is read at a later poll.

    Args:
        log_dir: where the job writes; it need not exist yet.
        tags: the tags wanted; all where None.
    """

    def __init__(self, log_dir: Path, tags: Collection[str] | None = None) -> None:
        self._log_dir = log_dir
        self._tags = None if tags is None else frozenset(tags)
        self._ends: dict[Path, int] = {}
        self._decoders: dict[Path, Decoder] = {}
        self.latest: dict[str, Scalar] = {}
        """Newest value by tag: of the file begun last, the one written last."""
        self.newest: Scalar | None = None
        """The value written last, of any tag. Its step is where the run stands now, which after
        a resume may be before the highest step ever reached."""

    def poll(self) -> list[Scalar]:
        """The values written since the last call, in the order of files and within them.

        A directory or file that is not there (yet) has none.
        """
        try:
            paths = find_event_files(self._log_dir)
        except InputError:
            return []
        found: list[Scalar] = []
        for path in paths:
            found += self._read(path)
        for scalar in found:
            self.latest[scalar.tag] = self.newest = scalar
        return found

    def _read(self, path: Path) -> list[Scalar]:
        try:
            size = path.stat().st_size
            offset = self._ends.get(path, 0)
            if size == offset:
                return []
            if size < offset:  # replaced by another file of the same name
                offset = 0
                self._decoders.pop(path, None)
            decoder = self._decoders.setdefault(path, Decoder())
            scalars, self._ends[path] = event_file.follow(path, offset, decoder)
        except (OSError, InputError):
            return []  # removed between two looks, or a file system that is away for a moment
        if self._tags is None:
            return scalars
        return [scalar for scalar in scalars if scalar.tag in self._tags]
