"""The findings of the linter as text, JSON, GitHub annotations, SARIF 2.1.0 and JUnit XML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from evenkeel.recipes.lint.engine import Report
from evenkeel.recipes.lint.registry import RULES, Finding, Severity


class Format(StrEnum):
    """What ``evenkeel lint --format`` offers."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"
    JUNIT = "junit"


def render(report: Report, chosen: Format) -> str:
    """The report in one of the formats, with a final newline."""
    return _FORMATS[chosen](report)


def _text(report: Report) -> str:
    return "".join(f"{line}\n" for line in _text_lines(report))


def _text_lines(report: Report) -> Iterator[str]:
    for finding in report.findings:
        yield f"{finding.path}:{finding.line}: {finding.code} {finding.message}"
        yield f"    fix: {finding.fix}"
    checked = (
        f"{_count(report.num_drivers, 'driver')}, {_count(report.num_recipes, 'recipe')} and "
        f"{_count(report.num_suites, 'listing')} checked"
    )
    if not report.findings:
        yield f"{checked}: nothing to report"
        return
    codes = Counter(finding.code for finding in report.findings)
    if len(report.findings) > 1:
        yield ""
        yield from (
            f"{number:6}  {code}  {RULES[code].title}" for code, number in sorted(codes.items())
        )
    fixable = sum(finding.edit is not None for finding in report.findings)
    tail = f"; --fix repairs {fixable} of them" if fixable else ""
    yield f"{checked}: {_count(len(report.findings), 'finding')}{tail}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def as_json(report: Report) -> dict[str, Any]:
    """The object of ``--format json``."""
    return {
        "checked": {
            "drivers": report.num_drivers,
            "recipes": report.num_recipes,
            "suites": report.num_suites,
        },
        "findings": [finding.as_json() for finding in report.findings],
    }


def _json(report: Report) -> str:
    return json.dumps(as_json(report), indent=2) + "\n"


def _github(report: Report) -> str:
    """Workflow commands: docs.github.com, 'Workflow commands for GitHub Actions'."""
    return "".join(
        f"::{RULES[finding.code].severity} file={_property(finding.path)},line={finding.line},"
        f"title={_property(f'{finding.code} {RULES[finding.code].title}')}"
        f"::{_data(f'{finding.message}{chr(10)}fix: {finding.fix}')}\n"
        for finding in report.findings
    )


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(report: Report) -> str:
    """OASIS SARIF 2.1.0."""
    codes = sorted({finding.code for finding in report.findings})
    driver = {
        "name": "evenkeel lint",
        "rules": [
            {
                "id": code,
                "name": RULES[code].title,
                "shortDescription": {"text": RULES[code].title},
                "fullDescription": {"text": RULES[code].reason},
                "help": {"text": RULES[code].fix},
                "defaultConfiguration": {"level": str(RULES[code].severity)},
            }
            for code in codes
        ],
    }
    results = [_sarif_result(finding, codes) for finding in report.findings]
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(document, indent=2) + "\n"


def _sarif_result(finding: Finding, codes: list[str]) -> dict[str, Any]:
    return {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": str(RULES[finding.code].severity),
        "message": {"text": f"{finding.message}. Fix: {finding.fix}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": finding.path, "uriBaseId": "%SRCROOT%"},
                    "region": {"startLine": finding.line},
                }
            }
        ],
    }


def _junit(report: Report) -> str:
    """One test case per file with findings; one that passes where there are none."""
    by_path: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_path.setdefault(finding.path, []).append(finding)
    cases = "".join(_junit_case(path, found) for path, found in by_path.items())
    if not cases:
        cases = '  <testcase classname="evenkeel.lint" name="all files"/>\n'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuite name="evenkeel lint" tests="{max(len(by_path), 1)}" '
        f'failures="{len(by_path)}" errors="0">\n{cases}</testsuite>\n'
    )


def _junit_case(path: str, findings: list[Finding]) -> str:
    first = f"{findings[0].code} {RULES[findings[0].code].title}"
    kind = "error" if any(_is_error(finding) for finding in findings) else "warning"
    text = "\n".join(
        f"{path}:{finding.line}: {finding.code} {finding.message}\n    fix: {finding.fix}"
        for finding in findings
    )
    return (
        f'  <testcase classname="evenkeel.lint" name="{_xml(path)}" '
        f'file="{_xml(path)}" line="{findings[0].line}">\n'
        f'    <failure type="{kind}" message="{_xml(first)}">{_xml(text)}</failure>\n'
        "  </testcase>\n"
    )


def _is_error(finding: Finding) -> bool:
    return RULES[finding.code].severity is Severity.ERROR


def _xml(text: str) -> str:
    """Escaped, and without what XML 1.0 cannot hold."""
    return "".join(_XML.get(char, char if char >= " " or char in "\n\t" else "�") for char in text)


_XML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


_FORMATS: Mapping[Format, Callable[[Report], str]] = {
    Format.TEXT: _text,
    Format.JSON: _json,
    Format.GITHUB: _github,
    Format.SARIF: _sarif,
    Format.JUNIT: _junit,
}
