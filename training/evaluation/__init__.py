"""Measuring a backbone and its experts."""
