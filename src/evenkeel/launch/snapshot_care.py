"""Looking after snapshots: listing them, proving what they hold, and removing old nights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path, PurePosixPath

from evenkeel.errors import InputError
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.git_code import blobs_of
from evenkeel.launch.launch_record import LAUNCHES, RECORD, LaunchRecord, read_record
from evenkeel.launch.liveness import Liveness, liveness_of
from evenkeel.launch.manifest import Manifest, differences, read_manifest
from evenkeel.launch.request import Submission
from evenkeel.launch.snapshot import point_to
from evenkeel.launch.tree_store import TREES, TreeStore, remove_tree
from evenkeel.run_paths import RunPaths

_DOOMED = ".building-doomed-"


@dataclass(frozen=True)
class Verified:
    """What was found of one tree.

    Attributes:
        problems: one line per difference; empty where the tree is as it was made.
        commit_known: whether the repository still has the commit, so that git confirmed it.
    """

    tree: str
    commit: str
    num_files: int
    problems: tuple[str, ...]
    commit_known: bool


@dataclass(frozen=True)
class Pruned:
    """What a prune removed, or would remove.

    Attributes:
        kept: older launches that stay, each with the reason.
        unreadable: launches that are not understood; trees stay while there are any.
    """

    launches: tuple[LaunchRecord, ...]
    kept: tuple[tuple[LaunchRecord, str], ...]
    trees: tuple[str, ...]
    unreadable: tuple[Path, ...]


def launches(snapshots_dir: Path) -> tuple[list[LaunchRecord], list[Path]]:
    """(readable launches, newest first; folders of the others)."""
    found, unreadable = [], []
    for folder in sorted((snapshots_dir / LAUNCHES).glob("[0-9]*"), reverse=True):
        try:
            found.append(read_record(folder))
        except InputError:
            unreadable.append(folder)
    return found, unreadable


def is_newest(submission: Submission, snapshots_dir: Path) -> bool:
    """Whether ``code_snapshots/<recipe>`` shows this launch."""
    return (snapshots_dir / submission.name).resolve() == submission.launch_dir.resolve()


def verify(snapshots_dir: Path, repository: Path, tree: str, recipes: Sequence[str]) -> Verified:
    """Compare every file of a tree with its manifest, and the manifest with the commit.

    Args:
        snapshots_dir: the folder of snapshots.
        repository: where the commit is looked up.
        tree: the tree's name.
        recipes: drivers whose results lie in it, relative to it and without ``.sh``.

    Raises:
        InputError: the tree or its manifest is gone.
    """
    path = snapshots_dir / TREES / tree
    if not path.is_dir():
        raise InputError("the snapshot is gone", path=path)
    manifest = read_manifest(Path(f"{path}.json"))
    runs = [RunPaths(path / recipe) for recipe in recipes]
    results = {one.root.relative_to(path) for run in runs for one in (run, *run.all_beside())}
    problems = list(differences(manifest, path, frozenset(map(str, results))))
    committed = blobs_of(repository, manifest.commit)
    if committed is not None:
        problems += _against_commit(manifest, committed)
    return Verified(
        tree=tree,
        commit=manifest.commit,
        num_files=len(manifest.files),
        problems=tuple(problems),
        commit_known=committed is not None,
    )


def prune(snapshots_dir: Path, keep_nights: int, cluster: Cluster, dry_run: bool) -> Pruned:
    """Remove the launches of all but the newest ``keep_nights`` nights, results included.

    A night is a local calendar date on which something was launched. A launch of which a job is
    pending, running, or of unknown state stays.
    """
    store = TreeStore(snapshots_dir)
    with store.locked():
        found, unreadable = launches(snapshots_dir)
        nights = sorted({_night(launch) for launch in found}, reverse=True)
        old = [launch for launch in found if _night(launch) not in nights[:keep_nights]]
        states = liveness_of(old, cluster)
        doomed, kept = [], []
        for launch in old:
            reasons = {states[submission.launch_dir] for submission in launch.submissions()}
            reasons -= {Liveness.ENDED}
            if reasons:
                kept.append((launch, " and ".join(sorted(reason.value for reason in reasons))))
            else:
                doomed.append(launch)
        stay = [launch for launch in found if launch not in doomed]
        wanted = {(recipe.tree, recipe.name) for launch in stay for recipe in launch.recipes}
        trees = () if unreadable else tuple(_unwanted(store, wanted))
        if not dry_run:
            for launch in doomed:
                _remove_launch(launch)
            if not unreadable:
                _remove_results(store, doomed, wanted)
                for tree in trees:
                    store.remove(store.root / tree)
            _mend_links(snapshots_dir, stay)
    return Pruned(tuple(doomed), tuple(kept), trees, tuple(unreadable))


def _night(launch: LaunchRecord) -> date:
    return datetime.fromisoformat(launch.created).astimezone().date()


def _unwanted(store: TreeStore, wanted: set[tuple[str, str]]) -> Iterator[str]:
    for path in sorted(store.root.glob("*.json")):
        tree = path.with_suffix("").name
        if not any((tree, recipe) in wanted for recipe in store.claims(store.root / tree)):
            yield tree


def _remove_launch(launch: LaunchRecord) -> None:
    # without its record first: a half-removed launch is not taken for a whole one
    doomed = launch.folder.with_name(_DOOMED + launch.folder.name)
    launch.folder.rename(doomed)
    (doomed / RECORD).unlink(missing_ok=True)
    remove_tree(doomed)


def _remove_results(
    store: TreeStore, doomed: Sequence[LaunchRecord], wanted: set[tuple[str, str]]
) -> None:
    for launch in doomed:
        for recipe in launch.recipes:
            if (recipe.tree, recipe.name) not in wanted:
                store.release(recipe.tree, PurePosixPath(recipe.driver))


def _mend_links(snapshots_dir: Path, stay: Sequence[LaunchRecord]) -> None:
    for link in snapshots_dir.iterdir():
        target = os.readlink(link) if link.is_symlink() else ""  # noqa: PTH115
        if not target.startswith(f"{LAUNCHES}/") or link.exists():
            continue
        shown = (one for one in stay if one.recording is None and link.name in one.names)
        newest = next(shown, None)
        if newest is None:
            link.unlink()
        else:
            point_to(link, newest.submission(link.name).launch_dir)


def _against_commit(manifest: Manifest, committed: dict[str, str]) -> Iterator[str]:
    changed = set(manifest.included)
    inside = tuple(f"{path}/" for path in manifest.submodules)
    for name, entry in manifest.files.items():
        if name in changed or name.startswith(inside or ("\0",)):
            continue
        if committed.get(name) != entry.blob:
            yield f"not as in commit {manifest.commit[:12]}: {name}"
    for name in committed:
        if name not in manifest.files and name not in changed:
            yield f"in commit {manifest.commit[:12]} and not in the manifest: {name}"
