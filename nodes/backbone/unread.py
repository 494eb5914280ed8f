"""What the host left unread of a backbone's file: its loader says so in its log only."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ...dcm_core.errors import shortened
from ...dcm_core.families.keymap import KeyMap

# Says that the others are there; what it says is in the network's class.
_MARKER = "scaled_fp8"
# For products in one byte: without them the host computes these in more.
_OF_INPUTS = (".scale_input", ".input_scale")
# The newer versions call it otherwise once they have read it.
_RENAMED = {"scale_weight": "weight_scale"}


def require_formats(said: Collection[str], known: Collection[str]) -> None:
    """Raises ValueError for ways in which the file says that layers are quantised, and this host does not know."""
    if unknown := [name for name in said if name not in known]:
        raise ValueError(
            f"its weights are quantised as {shortened(unknown)}, which this ComfyUI does not know. Update ComfyUI, or "
            "take the bf16 file."
        )


def check_read(keymap: KeyMap, given: Collection[str], network: nn.Module) -> list[str]:
    """What the network has not of the tensors that were given to it, as warnings.

    Raises ValueError for scales, without which weights mean nothing, and for tensors that the network has and was not
    given.
    """
    there = network.state_dict().keys()
    unread = keymap.lacking(given, there)
    scales, others = [], []
    for name in unread:
        layer, _, kind = name.rpartition(".")
        if name == _MARKER or name.endswith(_OF_INPUTS) or f"{layer}.{_RENAMED.get(kind)}" in there:
            continue
        beside = kind not in ("weight", "bias") and f"{layer}.weight" in given
        (scales if beside else others).append(name)
    if scales:
        raise ValueError(
            f"its weights are quantised in a way that this ComfyUI does not know: it left {len(scales)} scales unread "
            f"({shortened(scales, 3)}), without which they are noise. Update ComfyUI, or take the bf16 file."
        )
    # The host fills them with whatever lies in memory. Of parts that no table knows, it makes the buffers itself.
    layers = {name for name, _ in network.named_parameters() if _is_of_layer(name, given)}
    if absent := [name for name in keymap.lacking(there, given) if keymap.comfy_names(name) or name in layers]:
        raise ValueError(
            f"the file lacks {len(absent)} tensors of its network ({shortened(absent, 4)}), without which it makes "
            "noise. Download it again."
        )
    warnings = []
    if others:
        warnings.append(
            f"ComfyUI left {len(others)} tensors of the file unread: {shortened(others, 4)}. It may be of another "
            "model than it seems, or for a newer ComfyUI."
        )
    return warnings


def _is_of_layer(name: str, given: Collection[str]) -> bool:
    """Is it none of what a quantised layer has beside its weight?"""
    layer, _, kind = name.rpartition(".")
    return kind in ("weight", "bias") or f"{layer}.weight" not in given
