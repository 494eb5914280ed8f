"""Figures for the eye."""

import pytest

from training.words import digits, many, span, work


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (digits(28672.4), "28672"),
        (digits(999.6), "1000"),
        (digits(6.4142), "6.41"),
        (many(1, "prompt"), "1 prompt"),
        (many(0, "prompt"), "0 prompts"),
        (span(7.08e-6), "0.00708 ms"),
        (span(34.71), "34.7 s"),
        (span(119.0), "119 s"),
        (span(142.2), "2.37 min"),
        (span(930 * 3600), "930 h"),
        (span(12345 * 3600), "12345 h"),
        (work(2.9e19), "29000 PFLOP"),
        (work(8.07e15), "8.07 PFLOP"),
        (work(5.63e11), "0.563 TFLOP"),
        (work(2.48e9), "2.48 GFLOP"),
    ],
)
def test_three_digits_and_no_exponent(said, meant):
    assert said == meant
