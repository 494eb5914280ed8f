"""Inputs that more than one node has."""

from comfy_api.latest import io


def steps_input() -> io.Int.Input:
    return io.Int.Input("steps", default=4, min=1, max=50, tooltip="Shared evenly between the experts.")


def semantic_steps_input() -> io.Int.Input:
    return io.Int.Input(
        "semantic_steps",
        default=0,
        min=0,
        max=49,
        optional=True,
        tooltip="Steps of the semantic expert; 0 shares the steps evenly.",
    )
