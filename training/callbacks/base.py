"""The interface of a callback."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..trainer import Trainer


class Callback:
    """Override what you need. State that must survive a resume is what `state` returns."""

    def start(self, trainer: "Trainer") -> None: ...

    def after_step(self, trainer: "Trainer", iteration: int, metrics: dict[str, float]) -> None: ...

    def report(self, trainer: "Trainer", iteration: int, values: dict[str, float]) -> None:
        """Values to be kept, after so many iterations: means of the losses, results of a validation."""

    def finish(self, trainer: "Trainer") -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None: ...
