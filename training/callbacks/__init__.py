"""Callbacks: what happens around the iterations. Each is one small file."""
