"""The machine in words: what a choice by time holds for."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache

import torch

from .host import host_version


def machine(device: str) -> str:
    """The card with its driver, PyTorch and the host, whose order of back ends is its own way."""
    versions = f"PyTorch {torch.__version__}, ComfyUI {host_version()}"
    if not device.startswith("cuda"):
        return f"{device}, {versions}"
    return f"{torch.cuda.get_device_name(device)}, driver {driver_version()}, {versions}"


@cache
def driver_version() -> str:
    """Of NVIDIA's driver, as its management library tells it; where that is missing or does not start, none is told."""
    text = ctypes.create_string_buffer(96)
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
        library.nvmlInit_v2()
        library.nvmlSystemGetDriverVersion(text, len(text))
        library.nvmlShutdown()
    return text.value.decode() or "of an unknown version"
