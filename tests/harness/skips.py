"""What a run of the tests has left out, and what each part needs: at its end, however quiet it was asked to be."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(reason_of(report) for report in terminalreporter.stats.get("skipped", []))
    if not reasons:
        return
    terminalreporter.section("skipped, and what it needs", sep="-")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'}: {reason}")


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """In one line. pytest keeps (file, line, "Skipped: reason")."""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = " ".join(told.removeprefix("Skipped: ").split())
    if reason.startswith("could not import"):
        return f"{reason}; run `pip install -r requirements.txt -r training/requirements.txt -e .[dev]`"
    return reason
