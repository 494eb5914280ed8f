"""Work shared among processes, its results in the order of the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")
R = TypeVar("R")


class _Work(Dataset):
    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]):
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.function(self.items[number])


def ordered(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """The results of all items; no more than two for each process are ever waiting. None runs in this process.

    A DataLoader, since its processes end with this one whatever ends it.
    """
    workers = min(workers, len(items))
    # results travel as they are: as tensors they would take room in /dev/shm, which containers have little of
    yield from DataLoader(_Work(function, items), batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(result: T) -> T:
    return result
