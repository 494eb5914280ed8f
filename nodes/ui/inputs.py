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


def cfg_input() -> io.Float.Input:
    return io.Float.Input(
        "cfg",
        default=1.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Leave it at 1: the experts carry their guidance. Another value doubles the time. With two MODELs, "
        "that of the high-noise one.",
    )


def detail_cfg_input() -> io.Float.Input:
    return io.Float.Input(
        "detail_cfg",
        default=0.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        optional=True,
        tooltip="The cfg of the detail expert's, or of the low-noise MODEL's, steps; 0 means the same as cfg.",
    )


def low_noise_model_input() -> io.Model.Input:
    return io.Model.Input(
        "low_noise_model",
        optional=True,
        tooltip="The second MODEL of a pair such as Wan 2.2's, with LoRAs of its own; it takes the steps that a detail "
        "expert would. Loaded when its first step comes.",
    )


def boundary_input() -> io.Float.Input:
    return io.Float.Input(
        "boundary",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.001,
        round=0.0001,
        optional=True,
        tooltip="Only for two MODELs: steps at this noise level (sigma) and above are the first one's. 0 takes what "
        "the experts' files say, else Wan 2.2's own: 0.875 for text to video, 0.9 for image to video.",
    )
