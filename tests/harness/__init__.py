"""Driving a real ComfyUI from tests: finding it, starting it, talking to it, and tiny models for it."""
