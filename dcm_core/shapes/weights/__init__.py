"""The trained files that the repository ships: the teacher in ComfyUI layout, and its experts.

The pairs for a certain number of steps learned from the teacher's paths, that without one by the published objective.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent


def teacher() -> Path:
    """The 50-step teacher, a whole backbone."""
    return _shipped("teacher.safetensors")


def semantic() -> Path:
    """The semantic expert of the published objective: a full difference to the teacher."""
    return _shipped("semantic.safetensors")


def detail() -> Path:
    """The detail expert over it: low-rank pairs and replaced layers."""
    return _shipped("detail.safetensors")


def experts() -> list[Path]:
    """All shipped experts: also those that were trained for a number of steps."""
    return sorted(path for kind in ("semantic", "detail") for path in _FOLDER.glob(f"{kind}*.safetensors"))


def style() -> Path:
    """An ordinary LoRA over the teacher: pale backgrounds and outlined shapes."""
    return _FOLDER / "shapes_outlined.safetensors"


def _shipped(name: str) -> Path:
    path = _FOLDER / name
    if not path.exists():
        raise FileNotFoundError(missing(name))
    return path


def missing(name: str) -> str:
    """What to say of a shipped file that is not there."""
    return (
        f"{_FOLDER / name} is missing, so the Shapes world cannot run. Install the pack again, or train the file with "
        "training/configs/shapes.yaml."
    )
