"""The processes of a run: torchrun starts several, and without it there is a world of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..config import Config
from ..errors import ConfigError, unknown

_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class World:
    """What this process has of a run, and what all of them agree on.

    ``mesh``: how networks are split among the processes, None where each has them whole. ``context``: those that share
    their clips with this one, None where it has its own. Everything that talks to the others has to be called by all
    processes, in the same order.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    context: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def readers(self) -> int:
        """How many processes, or groups that share their clips, have clips of their own."""
        return self.size if self.context is None else self.size // self.context.size()

    def rows(self, count: int) -> range:
        """Which rows of a batch of ``count`` are this process's."""
        share, reader = count // self.readers, self.rank * self.readers // self.size
        return range(share * reader, share * (reader + 1))

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.mean({"": float(flag)})[""] > 0

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over all processes of each value."""
        if self.size == 1:
            return dict(values)
        summed = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(summed)
        return dict(zip(values, (summed / self.size).tolist(), strict=True))

    def gathered(self, value: Any) -> list[Any]:
        """What each of the processes has."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def join(config: Config) -> World:
    """The world that this process was started in. Raises ConfigError for a device that is not here."""
    size = processes()
    if size == 1:
        return World(usable_device(config.device))
    device = usable_device(config.device, int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    shard = config.parallel.shard or size
    shape, names = ((size,), ("shard",)) if shard == size else ((size // shard, shard), ("replicate", "shard"))
    # Whole copies need no mesh: FSDP2 would divide their gradients twice.
    mesh, context = None if shard == 1 else init_device_mesh(device.type, shape, mesh_dim_names=names), None
    if (sharing := config.parallel.context) > 1:
        shape = size // sharing, 1, sharing
        context = init_device_mesh(device.type, shape, mesh_dim_names=("reader", "ring", "ulysses"))["ring", "ulysses"]
    return World(device, dist.get_rank(), size, mesh, context)


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def farewell() -> None:
    """Leave the other processes, at the end of a run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def another_is_gone(error: RuntimeError) -> bool:
    """Whether an error is only that another process has ended, which has said why."""
    return isinstance(error, dist.DistError) or (processes() > 1 and "Connection closed by peer" in str(error))


def check_processes(config: Config, size: int) -> None:
    """Raises ConfigError naming what of a configuration so many processes cannot do, a line each."""
    if (size > 1 or config.parallel.context > 1) and (problems := dict.fromkeys(_contradictions(config, size))):
        raise ConfigError("\n".join(problems))


def usable_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of that name, for the process of that number on this machine.

    Raises ConfigError for one that is not here or that the trainer does not know.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if there else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, _DEVICES) from None
    if device.type not in _DEVICES:
        raise unknown("device", name, _DEVICES)
    if device.type == "cuda" and local_rank is not None:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= there:
        remedy = (
            "Use device=cpu, or install a driver and a CUDA build of PyTorch."
            if local_rank is None
            else "Each process needs one of its own: start fewer with --nproc-per-node."
        )
        raise ConfigError(
            f"device={name!r}: PyTorch {torch.__version__} finds {there or 'no'} CUDA GPU{'s' * (there > 1)} here. "
            f"{remedy}"
        )
    return device


def _contradictions(config: Config, size: int) -> Iterator[str]:
    """A sentence each."""
    if size % config.parallel.context:
        yield f"parallel.context={config.parallel.context} does not divide the number of processes, {size}."
        return
    readers = size // config.parallel.context
    stages = [config.stage] if config.stage else config.stages
    for stage in map(config.of_stage, stages):
        count = stage.stage_data().batch_size
        if count % readers:
            fitting = sorted({max(1, count // readers) * readers, -(-count // readers) * readers})
            who = f"{size} processes" if readers == size else f"{readers} groups of processes"
            yield (
                f"data.batch_size={count} of stage {stage.stage} cannot be shared equally by {who}: use "
                f"{' or '.join(map(str, fitting))}, or start another number of processes."
            )
    if config.parallel.shard and size % config.parallel.shard:
        yield f"parallel.shard={config.parallel.shard} does not divide the {size} processes of this run."
    whole = config.parallel.shard == 1
    if whole and config.parallel.context > 1:
        yield "parallel.shard=1 and parallel.context do not go together: leave parallel.shard out."
    if size > 1 and not whole:
        settings = config.compute.frozen_apart
        for stage in map(config.of_stage, stages):
            if stage.selected().optimizer.name == "adamw8bit":
                settings.append(f"stages.{stage.stage}.optimizer.name=adamw8bit")
        for each in settings:
            yield f"{each} is for networks that are whole on each process: set parallel.shard=1."
    if size > 1 and ":" in config.device:
        yield f"device={config.device!r} is one device, and {size} processes need one each: use device=cuda."
