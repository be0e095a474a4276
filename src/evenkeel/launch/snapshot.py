"""Taking the snapshot of a launch: what its jobs run is exactly the code at this moment."""

from __future__ import annotations

import getpass
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from evenkeel.errors import EvenkeelError, InputError, MachineError
from evenkeel.launch.git_code import Changes, Code, read_code, toplevel_of
from evenkeel.launch.launch_record import (
    LAUNCHES,
    LaunchedRecipe,
    LaunchRecord,
    LaunchState,
    write_state,
)
from evenkeel.launch.request import JobShape, LaunchRequest
from evenkeel.launch.tree_store import Tree, TreeStore, remove_tree, share
from evenkeel.run_paths import RECIPES, SUITES

CONTINUE = "continue.sh"
_BUILDING = ".building-"
_TEMPLATE = Path(__file__).with_name(CONTINUE)
_MOST_NAMED = 10


@dataclass(frozen=True)
class Taken:
    """A launch whose snapshot is taken and whose record is written; nothing is submitted yet."""

    record: LaunchRecord
    warnings: tuple[str, ...]


def take(request: LaunchRequest, shapes: Sequence[JobShape]) -> Taken:
    """Snapshot the code for ``request.drivers`` and write the record of the launch.

    Args:
        request: what to launch.
        shapes: of its drivers, in the same order.

    Raises:
        InputError: no git repository; a driver or its recipe has changes that would not be part
            of the snapshot; something of another kind stands where the snapshot goes.
        MachineError: the disk is full or git failed; nothing half-made is left.
    """
    toplevel = toplevel_of(request.drivers[0].parent)
    drivers = [_relative(driver, toplevel) for driver in request.drivers]
    newest = [request.snapshots_dir / driver.stem for driver in drivers]
    _refuse_foreign(newest)
    store = TreeStore(request.snapshots_dir)
    ignore = _inside(request.snapshots_dir, toplevel)
    with store.locked():
        with store.scratch() as scratch:
            code = read_code(toplevel, scratch, request.include_dirty, ignore)
            _check(request, code, drivers)
            trees = store.claim(code, drivers)
        record = _record(request, code, drivers, shapes, trees)
        try:
            _write(record, request, {driver.stem: trees[driver] for driver in drivers})
        except BaseException as error:
            for driver, tree in trees.items():
                store.release(tree.path.name, driver)
            if isinstance(error, OSError):
                raise _refused(record.folder, error) from error
            raise
        # what is trained for a baseline takes no place from the last night of a recipe
        for recipe in record.recipes if record.recording is None else ():
            point_to(request.snapshots_dir / recipe.name, record.folder / recipe.folder)
    return Taken(record, tuple(_warnings(code)))


def point_to(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``, at once for every reader."""
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(target, link.parent))
    new.replace(link)


def _relative(driver: Path, toplevel: Path) -> PurePosixPath:
    # the folder is resolved and the file is not: a driver may be a tracked symbolic link
    place = driver.parent.resolve() / driver.name
    try:
        return PurePosixPath(place.relative_to(toplevel.resolve()))
    except ValueError:
        raise InputError(
            f"not in the repository {toplevel}, whose code is launched",
            path=driver,
            fix="launch the drivers of each repository by themselves",
        ) from None


def _inside(folder: Path, toplevel: Path) -> tuple[str, ...]:
    try:
        return (str(folder.resolve().relative_to(toplevel.resolve())),)
    except ValueError:
        return ()


def _refuse_foreign(links: Sequence[Path]) -> None:
    for link in links:
        if link.exists() and not link.is_symlink():
            raise InputError(
                "a file or folder that is not ours stands where the snapshot will show",
                path=link,
                fix="move it away, or launch with --snapshot-dir DIR",
            )


def _check(request: LaunchRequest, code: Code, drivers: Sequence[PurePosixPath]) -> None:
    if request.options.is_release and (code.left_out.modified or code.included):
        raise InputError(
            f"a release is launched from a commit, and {_some(code.left_out.modified)} differ"
            if code.left_out.modified
            else "a release is launched from a commit, without uncommitted changes",
            path=code.toplevel,
            fix="commit the changes first",
        )
    tracked = {file.path for file in code.files}
    for driver in drivers:
        for path in (driver, _recipe_of(driver)):
            state = _state(str(path), code.left_out)
            if state is None and path == driver and str(path) not in tracked:
                state = "ignored by git"
            if state is not None:
                raise InputError(
                    f"it is {state}, so the snapshot would run something else",
                    path=code.toplevel / path,
                    fix="commit it, or"
                    + (" git add it and" if state != "modified" else "")
                    + " launch with --include-dirty",
                )


def _recipe_of(driver: PurePosixPath) -> PurePosixPath:
    suites = PurePosixPath(SUITES)
    below = driver.relative_to(suites) if driver.is_relative_to(suites) else driver
    return PurePosixPath(RECIPES) / below.parent / f"{below.name.removesuffix('.sh')}.yaml"


def _state(path: str, left_out: Changes) -> str | None:
    if path in left_out.modified:
        return "modified"
    folders = tuple(other for other in left_out.untracked if other.endswith("/"))
    if path in left_out.untracked or path.startswith(folders or ("\0",)):
        return "untracked"
    return None


def _warnings(code: Code) -> Iterator[str]:
    if code.left_out.modified:
        yield (
            f"the snapshot is commit {code.commit[:12]} and leaves out uncommitted changes of"
            f" {_some(code.left_out.modified)}; --include-dirty takes them"
        )
    if code.included:
        yield (
            f"the snapshot is commit {code.commit[:12]} with uncommitted changes of"
            f" {_some(code.included)}; the difference is recorded"
        )
    if code.left_out.untracked:
        yield f"untracked and so left out: {_some(code.left_out.untracked)}"
    for path, commit in code.submodules.items():
        if commit is None:
            yield f"submodule {path} is not checked out and so left out"


def _some(paths: Sequence[str]) -> str:
    named = ", ".join(path if path.isprintable() else repr(path) for path in paths[:_MOST_NAMED])
    rest = len(paths) - _MOST_NAMED
    return f"{named} and {rest} more" if rest > 0 else named


def _record(
    request: LaunchRequest,
    code: Code,
    drivers: Sequence[PurePosixPath],
    shapes: Sequence[JobShape],
    trees: dict[PurePosixPath, Tree],
) -> LaunchRecord:
    now = datetime.now(UTC)
    # sorts by time; the last digit tells apart what two repositories launch at one moment
    launch_id = f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.token_hex(1)[0]}"
    return LaunchRecord(
        folder=request.snapshots_dir / LAUNCHES / launch_id,
        launch_id=launch_id,
        created=now.isoformat(timespec="seconds"),
        user=_user(),
        host=socket.gethostname(),
        python=sys.executable,
        commit=code.commit,
        suite=request.suite,
        options=request.options,
        recipes=tuple(
            LaunchedRecipe(driver.stem, f"{number:03d}", driver, trees[driver].path.name, shape)
            for number, (driver, shape) in enumerate(zip(drivers, shapes, strict=True), 1)
        ),
        recording=request.recording,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return str(os.getuid())


def _write(record: LaunchRecord, request: LaunchRequest, trees: dict[str, Tree]) -> None:
    launches = record.folder.parent
    launches.mkdir(parents=True, exist_ok=True)
    with _built_aside(record.folder) as building:
        record.write(building)
        if request.dry_run.value:
            write_state(building, LaunchState.PREPARED)
        script = building / CONTINUE
        text = _TEMPLATE.read_text(encoding="utf-8")
        script.write_text(text.replace("@PYTHON@", shlex.quote(record.python)), encoding="utf-8")
        script.chmod(0o555)
        tops: dict[Path, list[str]] = {}
        for recipe in record.recipes:
            tree = trees[recipe.name].path
            names = tops.setdefault(tree, sorted(path.name for path in tree.iterdir()))
            _show(building / recipe.folder, script, tree, names)


def _show(folder: Path, script: Path, tree: Path, names: Sequence[str]) -> None:
    """The folder of one recipe: ``continue.sh``, and the tree's top as if it were here."""
    folder.mkdir()
    share(script, folder / CONTINUE)
    below = os.path.relpath(tree, folder)
    for name in names:
        if name != CONTINUE:
            (folder / name).symlink_to(f"{below}/{name}")
    if "recipes" not in names and (tree / SUITES).is_dir():
        # results were at recipes/<kind>/<recipe>/ in earlier layouts of such suites
        (folder / "recipes").symlink_to(f"{below}/{SUITES}")


@contextmanager
def _built_aside(folder: Path) -> Iterator[Path]:
    for left in folder.parent.glob(f"{_BUILDING}*"):  # whoever made it holds no lock any more
        remove_tree(left)
    building = folder.with_name(f"{_BUILDING}{folder.name}")
    building.mkdir()
    try:
        yield building
        building.rename(folder)
    finally:
        remove_tree(building)


def _refused(path: Path, error: OSError) -> EvenkeelError:
    return MachineError(
        f"cannot write the record of the launch: {error.strerror or error}",
        path=path,
        fix="make room or get permission there, then launch again",
    )
