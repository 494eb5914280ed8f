"""A cache of the teacher's own guided paths from noise: float32 states at chosen noise levels.

A folder with ``index.json`` and a safetensors file for every batch of paths, written whole or not at all. The noise of
a path follows from the seed and the path's number, so a cache that was interrupted goes on bit for bit, and several
processes may fill it. Readers map the files into memory, which processes share. The states are float32, since 16 bits
would put noise into what a network is taught: near sigma 1 a path hardly moves.

Of a pair of models each has a cache of its own part of the paths, that of the low-noise model going on from the other:
so one of them is loaded at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dcm_core.files.atomic import atomic_write
from dcm_core.files.format import write_tensors
from dcm_core.files.stream import require_space
from dcm_core.process import Process
from dcm_core.sampling import VelocityModel, euler

from ..errors import ConfigError
from ..run.draws import Draws, parts
from ..run.world import World
from .base import Data
from .batch import Conditions
from .levels import float32
from .path_recipe import UNROUNDED, Recipe

_INDEX, _VERSION, _FILES = "index.json", 1, "paths-"
# Of tqdm, over the steps of all paths: one path may take minutes.
BAR: dict[str, Any] = {"ncols": 80, "bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"}


@dataclass(frozen=True)
class Plan:
    """What a cache is to hold.

    ``nodes``: the noise levels at which the teacher is asked, falling, and the one where the paths end; ``levels``:
    those whose states are kept. ``stream`` and ``seed`` tell the noise of one cache from another's. Path ``n`` has
    prompt ``n`` modulo their number. ``begins``: the name of the plan whose paths these go on from; empty for noise.
    """

    recipe: Recipe
    nodes: list[float]
    levels: list[float]
    seed: int
    stream: str
    count: int
    batch: int
    prompts: list[str]
    begins: str = ""

    @property
    def name(self) -> str:
        """Tells plans apart, whatever the number of their paths."""
        told = {**asdict(self), "count": 0}
        for name, none in (("frames", ""), ("base", UNROUNDED)):  # as it was before there were any
            if told["recipe"][name] == none:
                del told["recipe"][name]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]

    @property
    def batches(self) -> int:
        return -(-self.count // self.batch)

    @property
    def batch_bytes(self) -> int:
        return 4 * self.batch * len(self.levels) * torch.Size(self.recipe.shape).numel()

    @property
    def calls(self) -> int:
        """Of the network, a path."""
        return self.steps * (1 if self.recipe.guidance == 1 else 2)

    @property
    def steps(self) -> int:
        """Of a path."""
        return len(self.nodes) - 1

    def captions(self, numbers: Iterable[int]) -> list[str]:
        return [self.prompts[number % len(self.prompts)] for number in numbers]


class PathCache:
    """The paths in a folder; see the head of this file."""

    def __init__(self, folder: Path, plan: Plan):
        self.folder, self.plan = folder, plan
        self._open: dict[int, Any] = {}

    @classmethod
    def read(cls, folder: Path) -> PathCache:
        """Raises ConfigError where there is none."""
        try:
            values = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            version = values.pop("version")
            if version != _VERSION:
                raise ConfigError(f"The paths in {folder} are of version {version}, this trainer reads {_VERSION}.")
            return cls(folder, Plan(recipe=Recipe(**values.pop("recipe")), **values))
        except FileNotFoundError:
            raise ConfigError(f"There are no paths in {folder}. Run training/paths.py first.") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{folder / _INDEX} is no index of paths: {error}") from None

    @classmethod
    def begin(cls, folder: Path, plan: Plan) -> PathCache:
        """The cache of this plan, new or as far as it is filled; only the number of its paths may grow.

        Raises ConfigError where the folder has paths of another plan, OSError where it cannot be written.
        """
        if (folder / _INDEX).exists():
            kept = cls.read(folder).plan
            kept.recipe.check(plan.recipe, folder, adding=True)
            changed = [name for name, value in vars(kept).items() if name != "count" and value != getattr(plan, name)]
            if changed:
                raise ConfigError(
                    f"The paths in {folder} were begun with other {', '.join(changed)}. Set the former, or name "
                    "another folder."
                )
            plan = replace(plan, count=max(plan.count, kept.count))
        elif any(folder.glob(f"{_FILES}*")):
            raise ConfigError(
                f"{folder} has files of paths and no {_INDEX}, which says what they are. Put it back, remove the "
                "files, or name another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / _INDEX) as file:
            file.write(json.dumps({"version": _VERSION, **asdict(plan)}, indent=1, ensure_ascii=False).encode())
        return cls(folder, plan)

    def missing(self) -> list[int]:
        """The numbers of the batches that are not there yet."""
        return [number for number in range(self.plan.batches) if not self._path(number).exists()]

    def require_whole(self) -> None:
        """Raises ConfigError where paths are missing."""
        self.require(range(self.plan.batches))

    def require(self, batches: Sequence[int]) -> None:
        """Raises ConfigError where some of these batches are missing."""
        if missing := [number for number in batches if not self._path(number).exists()]:
            raise ConfigError(
                f"{len(missing)} of {len(batches)} files of paths in {self.folder} are missing, such as "
                f"{self._path(missing[0]).name}. Run training/paths.py to the end; it goes on where it stopped."
            )

    def __len__(self) -> int:
        return self.plan.batches * self.plan.batch

    def write(self, batch: int, states: Tensor) -> None:
        """States [batch, levels, C, T, H, W] of a batch of paths."""
        with atomic_write(self._path(batch)) as file:
            write_tensors(file, {"states": states.float().contiguous()}, self._said(batch))

    def states(self, numbers: Iterable[int], levels: Sequence[int]) -> Tensor:
        """[N, L, C, T, H, W] of some paths at some of ``plan.levels``, given by position (-1 is the last).

        Raises OSError for a file that is damaged.
        """
        wanted = [range(len(self.plan.levels))[level] for level in levels]
        return torch.stack([torch.stack([self._state(number, level) for level in wanted]) for number in numbers])

    def positions(self, sigmas: Iterable[float]) -> list[int]:
        """Where these noise levels stand in ``plan.levels``. Raises ConfigError for one whose states are not kept."""
        places = {level: place for place, level in enumerate(self.plan.levels)}
        wanted = [float32(sigma) for sigma in sigmas]
        if lacking := [sigma for sigma in wanted if sigma not in places]:
            raise ConfigError(
                f"The paths in {self.folder} have no states at the noise levels "
                f"{', '.join(f'{sigma:.4f}' for sigma in lacking)}. Make them with your number of steps in paths.steps."
            )
        return [places[sigma] for sigma in wanted]

    def _state(self, number: int, level: int) -> Tensor:
        batch, row = divmod(number, self.plan.batch)
        path = self._path(batch)
        try:
            if batch not in self._open:
                self._open[batch] = self._opened(batch)
            return self._open[batch].get_slice("states")[row, level]
        except (SafetensorError, OSError, IndexError) as error:
            raise OSError(f"{path} cannot be read: {error}. Remove it and run training/paths.py again.") from error

    def _opened(self, batch: int) -> Any:
        file: Any = safe_open(self._path(batch), "pt").__enter__()
        said = file.metadata() or {}
        if any(said.get(name, value) != value for name, value in self._said(batch).items()):  # older ones say less
            raise ConfigError(
                f"{self._path(batch)} holds other paths than {_INDEX} beside it tells of: it belongs to another cache. "
                "Remove it and run training/paths.py again."
            )
        return file

    def _said(self, batch: int) -> dict[str, str]:
        """Of a file, in its header."""
        return {"batch": str(batch), "plan": self.plan.name}

    def _path(self, batch: int) -> Path:
        return self.folder / f"{_FILES}{batch:06d}.safetensors"


def fill(
    cache: PathCache,
    data: Data,
    teacher: Callable[[Conditions], VelocityModel],
    process: Process,
    world: World,
    part: range | None = None,
    before: PathCache | None = None,
    at_once: int | None = None,
    on_step: Callable[[int], object] = bool,
) -> Iterator[int]:
    """Make the missing batches of paths, or those of them in ``part``; yields the number of each when it is written.

    All processes of the world ask the teacher together, since it may be split among them, and the first one writes.
    ``before``: the paths that these go on from, where they do not begin with noise. ``at_once``: how many paths of a
    batch are solved together; none is all. ``on_step``: told after every step of how many paths it was one.
    Raises OSError before the first batch where the disk has no room for all, and ConfigError where ``before`` lacks
    some.
    """
    plan = cache.plan
    missing = [batch for batch in world.gathered(cache.missing())[0] if part is None or batch in part]
    require_space(cache.folder / _INDEX, len(missing) * plan.batch_bytes)
    if before is not None:
        before.require(missing)
    for batch in missing:
        numbers = range(batch * plan.batch, (batch + 1) * plan.batch)
        states = []
        for some in parts(numbers, at_once):
            conditions = data.conditions(plan.captions(some)).to(world.device)
            start = None if before is None else before.states(some, [-1])[:, 0]
            states.append(solved(plan, some, teacher(conditions), process, world.device, start, on_step))
        if world.first:
            cache.write(batch, torch.cat(states))
        yield batch
    world.gathered(None)  # nobody reads before the last is written


def solved(
    plan: Plan,
    numbers: range,
    model: VelocityModel,
    process: Process,
    device: torch.device,
    start: Tensor | None = None,
    on_step: Callable[[int], object] = bool,
) -> Tensor:
    """States [N, levels, C, T, H, W] of these paths, on the CPU; from ``start``, or else from noise. ``on_step``: see
    ``fill``."""
    if start is None:
        start = torch.stack([_noise(plan, number) for number in numbers])
    kept = {level: place for place, level in enumerate(plan.levels)}
    states = start.new_empty(len(numbers), len(kept), *start.shape[1:])

    def keep(step: int, x: Tensor) -> None:
        if (place := kept.get(plan.nodes[step + 1])) is not None:
            states[:, place] = x.cpu()

    def stepped(step: int, x: Tensor, clean: Tensor) -> None:
        keep(step, x)
        on_step(len(numbers))

    keep(-1, start)
    euler(model, start.to(device), plan.nodes, stepped, process)
    return states


def _noise(plan: Plan, number: int) -> Tensor:
    draws = Draws.of(plan.seed, number, 1)
    return draws.noise(plan.stream, torch.empty(1, *plan.recipe.shape))[0]
