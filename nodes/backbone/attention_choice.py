"""What stands in a MODEL's place for attention: it finds the fastest way when a shape is first met, and keeps to it."""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.ops
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dcm_core.files.atomic import atomic_write
from .attention import HOST, WAYS, Attention, Choice, asked_for, fastest
from .attention_earlier import Earlier
from .attention_inexact import Inexact
from .host import host_version

OVERRIDE = "optimized_attention_override"  # its place among the transformer options: for one alone
_ATTACHMENT = "dcm_attention"
PLAIN = "attention_pytorch"  # the host's function that is PyTorch's attention
SMALL = 1024 * 128  # elements of the queries below which newer hosts do not ask for cuDNN: it is slower there
# What hosts tell an attention that every way here does, or that changes no number of it.
UNDERSTOOD = {"scale", "transformer_options", "low_precision_attention", "_inside_attn_wrapper"}
LONG = 1e11  # operations of a call that takes long beside its launch: a third of a millisecond at 300 TFLOP a second
MOST = 2**15  # clips in one call: hosts cut larger batches into parts

log = logging.getLogger("DCM")


class Shape(NamedTuple):
    """What a choice depends on, beside the machine: of one head, and the function that is the host's own way."""

    queries: int
    keys: int
    width: int
    dtype: str
    device: str
    beside: str


class ChosenAttention:
    """An attention override: called with the host's function and what that is called with.

    ``earlier``: an override that was there before, which becomes the host's own way. ``fixed``: a way to take without
    asking which is the fastest. ``inexact``: one to take instead in the calls that it is for.

    It has no ``container_function``, so that newer hosts hand it the tensors of what they wrap them in.
    """

    def __init__(
        self,
        earlier: Callable[..., Tensor] | None = None,
        fixed: str | None = None,
        inexact: Inexact | None = None,
    ):
        self.earlier, self.fixed, self.inexact = earlier, fixed, inexact
        self._earlier = Earlier(earlier) if earlier else None

    def __call__(
        self,
        function: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **options: Any,
    ) -> Tensor:
        def own(*called: Any, **shaped: Any) -> Tensor:
            called = called if self.earlier is None else (function, *called)
            call = self.earlier or function
            return call(*called, mask=mask, attn_precision=attn_precision, **shaped, **options)

        def by_heads(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
            return own(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True)

        others = (value for name, value in options.items() if name not in UNDERSTOOD)  # is_causal, enable_gqa, ...
        asked = any(value is not None and value is not False for value in others)
        special = mask is not None or attn_precision == torch.float32 or asked
        if not special and q.nelement() >= SMALL and len(q) <= MOST:
            q_heads, k_heads, v_heads = (each if skip_reshape else with_heads(each, heads) for each in (q, k, v))
            by_head = q_heads, k_heads, v_heads, options.get("scale")
            attention = self.instead(by_heads, *by_head, function.__name__, options)
            if attention is not None:
                out = attention(*by_head)
                return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
        return own(q, k, v, heads, skip_reshape=skip_reshape, skip_output_reshape=skip_output_reshape)

    def instead(
        self, host: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None, beside: str, options: dict
    ) -> Attention | None:
        """What is to be called in the host's place; None for the host itself."""
        if self.inexact is not None and self.inexact.is_for(q, options):
            return self.inexact.measured(host, q, k, v, scale)
        if self.fixed:
            return None if self.fixed == HOST else asked_for(self.fixed)
        way = self.way(host, q, k, v, scale, beside, options)
        return None if way == HOST else WAYS[way]

    def way(
        self, host: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None, beside: str, options: dict
    ) -> str:
        """The way for tensors [B, heads, tokens, width]; ``beside``: the host's function."""
        compiling, earlier = torch.compiler.is_compiling(), self._earlier
        if earlier and compiling:
            return HOST  # in a graph there are no numbers to compare
        sizes = int(q.shape[2]), int(k.shape[2]), int(q.shape[3])
        shape = (*sizes, str(q.dtype), str(q.device), earlier.name if earlier else beside)
        if compiling:
            return way_in_graph(*shape, int(q.shape[1]))
        name = choice_for(Shape(*shape), host, q, k, v, scale).name
        told = options.get("transformer_options") or {}
        if earlier and name != HOST and not earlier.is_equalled(name, host, q, k, v, scale, told):
            return HOST
        return name


@torch.compiler.assume_constant_result
def way_in_graph(queries: int, keys: int, width: int, dtype: str, device: str, beside: str, heads: int) -> str:
    """The same while a graph is traced, where there are no numbers yet: tried with random ones."""
    shape = Shape(queries, keys, width, dtype, device, beside)
    if beside != PLAIN:
        known = known_choice(shape)
        return known.name if known else HOST
    like = {"dtype": getattr(torch, dtype.removeprefix("torch.")), "device": device}
    heads = heads_to_time(queries, keys, width, heads)
    q, k, v = (torch.randn(1, heads, tokens, width, **like) for tokens in (queries, keys, keys))
    return choice_for(shape, pytorch_as_the_host_has_it, q, k, v, None).name


def pytorch_as_the_host_has_it(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    return comfy.ops.scaled_dot_product_attention(q, k, v, scale=scale)


def with_heads(tensor: Tensor, heads: int) -> Tensor:
    """[B, tokens, heads * width] to [B, heads, tokens, width]."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


# --- what was chosen ----------------------------------------------------------------------------------------------

_chosen: dict[Shape, Choice] = {}  # in this process, so that a file that cannot be written costs no second look


def choice_for(shape: Shape, host: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Choice:
    """The choice for a shape, made now by a few heads of one clip if it never was; said once a process.

    It is kept for this card, driver and PyTorch: a seed's video would change with the way that attention is rounded.
    """
    if shape in _chosen:
        return _chosen[shape]
    choice = known_choice(shape)
    if choice is None:
        heads = heads_to_time(shape.queries, shape.keys, shape.width, q.shape[1])
        choice = fastest(host, q[:1, :heads], k[:1, :heads], v[:1, :heads], scale)
        if choice.name != HOST and not takes(choice.name, q, k, v, scale):
            choice = Choice(HOST)
        keep(shape, choice)
    _chosen[shape] = choice
    sizes = shape.queries if shape.queries == shape.keys else f"{shape.queries} x {shape.keys}"
    log.info("DCM: attention at %s tokens: %s", sizes, described(choice))
    return choice


def heads_to_time(queries: int, keys: int, width: int, heads: int) -> int:
    """As few of the heads as make a call long beside its launch, which is all that one head of a short text would time.

    One head is enough for a video's own tokens, so that the results of trying take no memory to speak of.
    """
    return min(heads, math.ceil(LONG / (4 * queries * keys * width)))


def takes(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> bool:
    """Does this way run on all heads of all clips too?"""
    try:
        WAYS[name](q, k, v, scale)
    except RuntimeError:
        return False
    return True


def described(choice: Choice) -> str:
    """A choice in words."""
    if choice.name == HOST:
        return f"{HOST}; nothing here is faster and as exact"
    return f"{choice.name}, {choice.times:.2f} times as fast as {HOST}"


def known_choice(shape: Shape) -> Choice | None:
    """What was chosen for this shape on this machine before; None where nothing was."""
    if shape in _chosen:
        return _chosen[shape]
    known = read_choices().get(machine(shape.device), {}).get(key_of(shape))
    if not isinstance(known, list) or len(known) != 2 or not isinstance(known[1], (int, float)):
        return None
    return Choice(*known) if known[0] in (HOST, *WAYS) else None


def keep(shape: Shape, choice: Choice) -> None:
    """Write a choice down for the next process; where that cannot be, it is made anew there."""
    choices = read_choices()
    choices.setdefault(machine(shape.device), {})[key_of(shape)] = list(choice)
    try:
        with atomic_write(choices_file()) as file:
            file.write(json.dumps(choices, indent=1).encode())
    except OSError as error:
        log.warning("DCM: which attention is the fastest here could not be kept: %s", error)


def read_choices() -> dict[str, dict[str, Any]]:
    """What the file holds, by machine and shape; nothing of what this did not write."""
    try:
        found = json.loads(choices_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    machines = found.items() if isinstance(found, dict) else ()
    return {machine: choices for machine, choices in machines if isinstance(choices, dict)}


def choices_file() -> Path:
    return Path(folder_paths.get_user_directory(), "dcm_attention.json")


def key_of(shape: Shape) -> str:
    return f"{shape.queries} x {shape.keys} tokens of {shape.width} in {shape.dtype}, beside {shape.beside}"


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


# --- in a MODEL ---------------------------------------------------------------------------------------------------


def has_gpu(model: ModelPatcher) -> bool:
    """Is the MODEL run on a GPU that there is a choice for?"""
    return model.load_device.type == "cuda" and torch.version.hip is None


def override_of(model: ModelPatcher) -> Any:
    """The attention override that a MODEL has; None without."""
    return model.model_options.get("transformer_options", {}).get(OVERRIDE)


def with_attention(model: ModelPatcher, fixed: str | None = None, inexact: Inexact | None = None) -> ModelPatcher:
    """A clone of the MODEL that takes the fastest way for attention, or the ``fixed`` one; and the ``inexact`` one in
    the calls that it is for."""
    earlier = override_of(model)
    if isinstance(earlier, ChosenAttention):  # this node twice: the last one counts
        earlier = earlier.earlier
    model = model.clone()
    options = model.model_options["transformer_options"] = dict(model.model_options.get("transformer_options", {}))
    options[OVERRIDE] = ChosenAttention(earlier, fixed, inexact)
    model.set_attachments(_ATTACHMENT, True)
    return model


def lost_attention(model: ModelPatcher) -> list[str]:
    """A warning where another node has put its attention in the place of the chosen one: there is one place."""
    if not model.get_attachment(_ATTACHMENT) or isinstance(override_of(model), ChosenAttention):
        return []
    return ["another node has put its attention in the place of DCM Attention's: put DCM Attention behind it."]


def inexact_of_detail_expert(model: ModelPatcher) -> str | None:
    """The inexact way that the MODEL takes in the detail expert's calls alone; None without."""
    override = override_of(model)
    inexact = override.inexact if isinstance(override, ChosenAttention) else None
    return inexact.name if inexact and not inexact.everywhere else None
