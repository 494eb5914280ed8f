"""DCMMotion: how much a video moves, by itself and beside a reference."""

from __future__ import annotations

from comfy.model_management import get_torch_device
from comfy_api.v0_0_2 import io

from ..dcm_core.motion import STILL, describe, difference_ratio, speeds, temporal_error
from ..dcm_core.motion_plot import plot_motion
from .ui import inputs
from .ui.say import say
from .ui.schema import found_by


class DCMMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="DCMMotion",
            display_name="DCM Motion",
            category="DCM",
            description="Says how much a video moves, and whether few steps have cost it the motion of a reference.",
            inputs=[
                inputs.video(),
                inputs.reference_video(),
            ],
            outputs=[
                io.String.Output(display_name="info", tooltip="The motion in a sentence, and how it was found."),
                io.Image.Output(display_name="plot", tooltip="Pixels a frame, over the frames."),
                io.Float.Output(display_name="motion_ratio", tooltip="Share of the reference's motion; 1 without one."),
                io.Float.Output(display_name="speed", tooltip="Mean of what has texture, in pixels a frame."),
                io.Float.Output(
                    display_name="temporal_error",
                    tooltip="How far the changes from frame to frame are from the reference's: 0 the same, 1 as a "
                    "still picture.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )
        return found_by(schema, "frozen motion", "slow motion", "still video", "compare videos")

    @classmethod
    def execute(cls, video, reference=None) -> io.NodeOutput:
        given = {"video": video} | ({} if reference is None else {"reference": reference})
        clips = {name: _clip(name, images) for name, images in given.items()}
        sizes = [_size(clip) for clip in clips.values()]
        if sizes[0] != sizes[-1]:
            raise ValueError(
                f"video is {sizes[0]} and reference {sizes[1]}: bring both to one size, with Upscale Image."
            )
        measured = {name: _speeds(clip) for name, clip in clips.items()}
        means = {name: sum(each) / len(each) for name, each in measured.items()}
        plot = plot_motion(measured).unsqueeze(0)
        told = describe(means["video"], means.get("reference"))
        if means.get("reference", 0.0) < STILL:  # none, or one without changes that others could be a share of
            if reference is not None:
                told += f" {describe(means['video'])}"
            return io.NodeOutput(say(cls, told), plot, 1.0, means["video"], 0.0)
        video, other = clips.values()
        frames = min(video.shape[2], other.shape[2])
        error = float(temporal_error(video[:, :, :frames], other[:, :, :frames]))
        ratio = means["video"] / means["reference"]
        told += (
            f" {means['video']:.2f} pixels a frame of {means['reference']:.2f}; pixels change "
            f"{difference_ratio(video, other):.0%} as much; temporal error {error:.2f}."
        )
        return io.NodeOutput(say(cls, told), plot, ratio, means["video"], error)


def _clip(name: str, images):
    """IMAGE [T, H, W, C] as a clip [1, 3, T, H, W] in -1..1. Raises ValueError for what has no motion to measure."""
    if len(images) < 2:
        raise ValueError(f"{name} is a single picture: connect the frames of a video.")
    broken = [number for number, frame in enumerate(images, 1) if not frame.isfinite().all()]
    if broken:
        raise ValueError(
            f"{name} has NaN or Inf in {len(broken)} of its {len(images)} frames, frame {broken[0]} the first: no "
            "motion can be measured. Find the node that made them, VAE Decode in too low a precision for example."
        )
    return images[..., :3].movedim(-1, 0).unsqueeze(0) * 2 - 1


def _speeds(clip) -> list[float]:
    grey = clip.mean(1, keepdim=True)  # all that is needed of it on a GPU
    return speeds(grey.to(get_torch_device()))[0].tolist()


def _size(clip) -> str:
    return f"{clip.shape[-1]} x {clip.shape[-2]}"
