"""Listing ↔ hardware: a suite declares its device, GPUs per node and time limit."""

from __future__ import annotations

from collections.abc import Iterator

from evenkeel.recipes.lint.claims import read_claims
from evenkeel.recipes.lint.registry import Finding, Subject, declare, looks_at
from evenkeel.recipes.lint.setup import setup_of_driver
from evenkeel.recipes.lint.tree import Tree

DECLARATION = declare(
    "EK109",
    "suite declares something that does not read",
    reason="What a suite says of its hardware and budget is then unknown.",
    fix="Correct the '#: key: value' line.",
)
HARDWARE = declare(
    "EK110",
    "driver does not fit its suite's hardware",
    reason="The suite's nodes have another number of GPUs, or none.",
    fix="List the driver in a suite of its hardware.",
)
TOO_LONG = declare(
    "EK305",
    "NUM_MINUTES above the suite's limit",
    reason="The partition refuses the job, or kills it at its own limit.",
    fix="Lower NUM_MINUTES and STEPS_PER_RUN, or list the driver in another suite.",
)


@looks_at(Subject.LISTING, DECLARATION, HARDWARE)
def suite_has_the_gpus(tree: Tree, path: str) -> Iterator[Finding]:
    """Declarations read; each driver's GPUs per node are those of the suite."""
    listing = tree.listing(path)
    problem = listing.bad_declaration
    if problem is not None:
        yield Finding(
            DECLARATION.code,
            path,
            problem.line or 1,
            problem.message,
            problem.fix or DECLARATION.fix,
        )
    offered = listing.declared.gpus_per_node
    if offered is None:
        return
    for entry in listing.entries:
        if entry.driver is None:
            continue
        name = entry.driver.rpartition("/")[2].removesuffix(".sh")
        allocation = read_claims(name).allocation
        gpus = (
            allocation[1] if allocation else tree.driver(entry.driver).numbers.get("GPUS_PER_NODE")
        )
        if gpus is not None and gpus not in offered:
            yield Finding(
                HARDWARE.code,
                path,
                entry.line,
                f"{name} wants {gpus} GPUs per node, the suite has "
                f"{' or '.join(map(str, offered))}",
                HARDWARE.fix,
            )


@looks_at(Subject.DRIVER, HARDWARE, TOO_LONG)
def driver_fits_its_suite(tree: Tree, path: str) -> Iterator[Finding]:
    """The recipe's device is the suite's, and a job is no longer than the suite allows."""
    places = tree.listed.get(path, [])
    driver = tree.driver(path)
    if driver.problem is not None:
        return
    for listing_path, line in places:
        listing = tree.listing(listing_path)
        declared = listing.declared
        minutes, limit = driver.numbers.get("NUM_MINUTES"), declared.max_minutes
        if limit is not None and minutes is not None and minutes > limit:
            yield Finding(
                TOO_LONG.code,
                path,
                driver.line_of("NUM_MINUTES"),
                f"NUM_MINUTES is {minutes}, the suite {listing.suite} allows {limit}",
                TOO_LONG.fix,
            )
        if declared.device is None:
            continue
        setup = setup_of_driver(tree, path)
        fact = None if setup is None else setup.facts.get("cluster.device")
        if fact is not None and fact.value in ("cpu", "cuda") and fact.value != declared.device:
            yield Finding(
                HARDWARE.code,
                listing_path,
                line,
                f"{driver.name} trains on {fact.value} ({fact.origin}), the suite's nodes on "
                f"{declared.device}",
                HARDWARE.fix,
            )
