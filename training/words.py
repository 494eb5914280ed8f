"""Figures as they stand in a line for the eye: three digits, and an exponent nowhere."""

from __future__ import annotations


def digits(value: float) -> str:
    """``0.0228``, ``6.41``, ``28672``."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def many(number: int, what: str) -> str:
    """``1 prompt``, ``2 prompts``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """A length of time: ``22.8 ms``, ``34.7 s``, ``2.37 min``, ``6.41 h``."""
    if seconds < 0.1:
        return f"{digits(1000 * seconds)} ms"
    if seconds < 120:
        return f"{digits(seconds)} s"
    return f"{digits(seconds / 60)} min" if seconds < 7200 else f"{digits(seconds / 3600)} h"


def work(flop: float) -> str:
    """Operations: ``8.07 PFLOP``, and of tiny networks ``2.48 GFLOP``."""
    name, size = next((each for each in (("PFLOP", 1e15), ("TFLOP", 1e12)) if flop >= 0.1 * each[1]), ("GFLOP", 1e9))
    return f"{digits(flop / size)} {name}"
