"""A pretended GPU on a machine without one: tensors that were moved to ``cuda`` refuse to meet those that were not.

Everything is computed on the CPU. Which device a tensor claims to be on belongs to its storage, so views share it.
What a real GPU allows is allowed here: numbers (tensors without dimensions) of the CPU meet anything, ``copy_`` goes
from one device to the other, and a tensor of the GPU may be indexed by one of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, resolve_name

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MOVES = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type_as}
CROSSING = {
    Tensor.copy_,
    Tensor.data.__set__,
    Tensor.grad.__set__,
    torch._has_compatible_shallow_copy_type,
}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put_}
TO_NUMPY = {Tensor.numpy, Tensor.__array__}


class TwoDevices(TorchFunctionMode):
    """Inside this context a device of type cuda is pretended."""

    def __init__(self) -> None:
        super().__init__()
        # The reference keeps the address from being taken by another storage, not the memory.
        self.on_gpu: dict[int, StorageWeakRef] = {}
        self.moved = 0

    def claimed(self, tensor: Tensor) -> torch.device:
        return GPU if tensor.untyped_storage()._cdata in self.on_gpu else CPU

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        given = list(_tensors((args, kwargs)))
        if func == Tensor.device.__get__:
            return self.claimed(args[0])
        if func == Tensor.is_cuda.__get__ or func == Tensor.is_cpu.__get__:
            return (self.claimed(args[0]) == GPU) == (func == Tensor.is_cuda.__get__)
        if func in TO_NUMPY and self.claimed(args[0]) == GPU:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        asked = CPU if func == Tensor.cpu else GPU if func == Tensor.cuda else None
        if func in MOVES:
            others = [each for each in given if each is not args[0]]
            asked = self.claimed(others[0]) if others else asked
        else:
            self._check(func, args, given)
        asked, args, kwargs = _without_device(asked, args, kwargs)
        if "generator" in kwargs and kwargs["generator"] is not None:
            wanted = asked or (self.claimed(given[0]) if given else CPU)
            if kwargs["generator"].device.type != wanted.type:
                raise RuntimeError(f"Expected a '{wanted.type}' device type for generator")
        if asked is None:
            asked = GPU if any(self.claimed(each) == GPU for each in given) else CPU
        former = {each.untyped_storage()._cdata: self.claimed(each) for each in given}
        result = func(*args, **kwargs)
        if func in MOVES and former[args[0].untyped_storage()._cdata] != asked and _shares(result, args[0]):
            result = result.clone()
        self.moved += func in MOVES and asked == GPU
        for each in _tensors(result):
            key = each.untyped_storage()._cdata
            if asked == GPU and former.get(key) != CPU:
                self.on_gpu[key] = StorageWeakRef(each.untyped_storage())
        return result

    def _check(self, func, args, given: list[Tensor]) -> None:
        if func in CROSSING or len({self.claimed(each) for each in given}) < 2:
            return
        if func in INDEXING and self.claimed(args[0]) == GPU:
            return
        strangers = [each for each in given if self.claimed(each) == CPU and each.ndim]
        of_gpu = [each for each in given if self.claimed(each) == GPU]
        if strangers or all(each.ndim == 0 for each in of_gpu) and func in INDEXING:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"(in {resolve_name(func)})"
            )


class _Generator(torch.Generator):
    """A generator of the CPU that claims another device."""

    device = CPU  # pyright: ignore


@contextmanager
def two_devices(monkeypatch) -> Iterator[TwoDevices]:
    """Pretend one GPU, also to who asks whether there is one."""

    def generator(device="cpu"):
        made = _Generator()
        made.device = torch.device(device)
        return made

    with monkeypatch.context() as patched, TwoDevices() as mode:
        patched.setattr(torch, "Generator", generator)
        patched.setattr("training.run.world.usable_device", lambda name: GPU if name == "cuda" else CPU)
        yield mode


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _without_device(asked, args, kwargs):
    """The device that a call asks for, and its arguments with the CPU in its place."""

    def is_device(value):
        return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"))

    for value in (*args, *kwargs.values()):
        if is_device(value):
            asked = GPU if torch.device(value).type == "cuda" else CPU
    args = tuple(CPU if is_device(value) else value for value in args)
    return asked, args, {name: CPU if is_device(value) else value for name, value in kwargs.items()}


def _shares(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata
