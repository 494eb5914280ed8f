"""The inputs that more than one node has, or that need more than a line, so that a node lists one input a line."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .schema import DcmExpert

MOST = 10.0  # the strength of a LoRA beyond which nothing sensible is meant

# --- MODELs, experts and files ------------------------------------------------------------------------------------


def model(tooltip: str) -> io.Model.Input:
    return io.Model.Input("model", tooltip=tooltip)


def low_noise_model() -> io.Model.Input:
    tooltip = (
        "The second MODEL of a pair such as Wan 2.2's, with LoRAs of its own; it takes the steps that a detail "
        "expert would. Loaded when its first step comes."
    )
    return io.Model.Input("low_noise_model", optional=True, tooltip=tooltip)


def detail_expert() -> io.Input:
    tooltip = (
        "Acts in the steps at low noise, where texture and detail are made. A semantic expert for one step runs "
        "without, and that of a pair over the high-noise MODEL."
    )
    return DcmExpert.Input("detail_expert", optional=True, tooltip=tooltip)


def semantic_expert() -> io.Input:
    tooltip = (
        "Acts in the steps at high noise, where layout and motion are made. Leave it open if the MODEL is a whole "
        "semantic backbone."
    )
    return DcmExpert.Input("semantic_expert", optional=True, tooltip=tooltip)


def strength(name: str) -> io.Float.Input:
    tooltip = "1 is what the expert was trained for."
    return io.Float.Input(name, default=1.0, min=-2.0, max=2.0, step=0.01, optional=True, tooltip=tooltip)


def bf16_timestep() -> io.Boolean.Input:
    tooltip = (
        "Rounds as the published run did, for comparisons with it. HunyuanVideo: timesteps in bfloat16 (980 for "
        "981.8), and an embedded guidance of 6000 where ComfyUI in bfloat16 has 6016, as in training. Wan: no change."
    )
    return io.Boolean.Input("bf16_timestep", display_name="as_published", default=False, optional=True, tooltip=tooltip)


def backbone_name(names: list[str]) -> io.Combo.Input:
    tooltip = "In models/diffusion_models. A network in several files is listed by its folder."
    return io.Combo.Input("backbone_name", options=names, tooltip=tooltip)


def expert_name(names: list[str]) -> io.Combo.Input:
    tooltip = "A .safetensors or .sft file in models/dcm or models/loras; for a name in both, the former."
    return io.Combo.Input("expert_name", options=names, tooltip=tooltip)


def lora_name(names: list[str]) -> io.Combo.Input:
    tooltip = "A .safetensors or .sft file in models/loras; shapes_outlined comes with Shapes, and is for that."
    return io.Combo.Input("lora_name", options=names, tooltip=tooltip)


def lora_strength(expert: str, side: str) -> io.Float.Input:
    tooltip = f"In the steps of the {expert} expert, or of the {side} MODEL; 0 leaves them alone."
    return io.Float.Input(f"strength_{expert}", default=1.0, min=-MOST, max=MOST, step=0.01, tooltip=tooltip)


def weight_dtype(names: list[str]) -> io.Combo.Input:
    tooltip = "How the weights are stored. fp8 halves the memory; the detail expert keeps its precision."
    return io.Combo.Input("weight_dtype", options=names, default="default", tooltip=tooltip)


def attention(names: list[str]) -> io.Combo.Input:
    tooltip = "fastest tries them. A way that does not take the size of a video ends the run."
    return io.Combo.Input("attention", options=names, default=names[0], tooltip=tooltip)


def inexact(names: list[str]) -> io.Combo.Input:
    tooltip = (
        "Attention that computes with fewer bits, which changes the video a little. How much is measured when a size "
        "is first sampled, and shown on the node and in the log."
    )
    return io.Combo.Input("inexact", options=names, default=names[0], optional=True, tooltip=tooltip)


def inexact_in(names: list[str]) -> io.Combo.Input:
    tooltip = "Where the inexact attention acts. The other steps have that of attention."
    return io.Combo.Input("inexact_in", options=names, default=names[0], optional=True, tooltip=tooltip)


# --- noise levels and their switch --------------------------------------------------------------------------------


def kappa() -> io.Float.Input:
    tooltip = (
        "0 keeps the boundary the detail expert was trained with. Another value is a noise level in 0..1 (sigma, for "
        "CogVideoX the timestep / 1000); the nearest grid point is taken."
    )
    return io.Float.Input(
        "kappa", default=0.0, min=0.0, max=1.0, step=0.0001, round=0.0001, optional=True, tooltip=tooltip
    )


def boundary() -> io.Float.Input:
    tooltip = (
        "Only for two MODELs: steps at this noise level (sigma) and above are the first one's. 0 takes what the "
        "experts' files say, else Wan 2.2's own: 0.875 for text to video, 0.9 for image to video."
    )
    return io.Float.Input(
        "boundary", default=0.0, min=0.0, max=1.0, step=0.001, round=0.0001, optional=True, tooltip=tooltip
    )


def steps() -> io.Int.Input:
    tooltip = "Shared evenly between the experts. 0 takes as many as they or a speed LoRA were trained for, or else 4."
    return io.Int.Input("steps", default=0, min=0, max=50, tooltip=tooltip)


def semantic_steps() -> io.Int.Input:
    tooltip = "Steps of the semantic expert; 0 shares the steps evenly."
    return io.Int.Input("semantic_steps", default=0, min=0, max=49, optional=True, tooltip=tooltip)


def preset(names: list[str]) -> io.Combo.Input:
    tooltip = (
        "experts: as the expert file says, or a speed LoRA that is recognised. aligned: the semantic expert ends "
        "exactly on kappa. official: the published lists where there are any (HunyuanVideo 4 steps, Wan 6 steps). The "
        "others are for speed LoRAs, with or without a second MODEL; the help page names their sources."
    )
    return io.Combo.Input("preset", options=names, default="experts", optional=True, tooltip=tooltip)


def denoise(tooltip: str) -> io.Float.Input:
    return io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, optional=True, tooltip=tooltip)


def sigmas() -> io.Sigmas.Input:
    tooltip = "Noise levels of your own. They rule over steps, semantic_steps and denoise."
    return io.Sigmas.Input("sigmas", optional=True, tooltip=tooltip)


# --- a run --------------------------------------------------------------------------------------------------------


def seed() -> io.Int.Input:
    tooltip = "The seed of the noise."
    return io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip=tooltip)


def cfg() -> io.Float.Input:
    tooltip = (
        "Leave it at 1: the experts carry their guidance. Another value doubles the time. With two MODELs, that of "
        "the high-noise one."
    )
    return io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


def detail_cfg() -> io.Float.Input:
    tooltip = "The cfg of the detail expert's, or of the low-noise MODEL's, steps; 0 means the same as cfg."
    return io.Float.Input(
        "detail_cfg", default=0.0, min=0.0, max=100.0, step=0.1, round=0.01, optional=True, tooltip=tooltip
    )


def positive() -> io.Conditioning.Input:
    return io.Conditioning.Input("positive", tooltip="What the video is to show.")


def negative() -> io.Conditioning.Input:
    return io.Conditioning.Input("negative", tooltip="Used only where cfg is not 1.")


def latent_image() -> io.Latent.Input:
    tooltip = "An empty latent, or with denoise below 1 the video to change."
    return io.Latent.Input("latent_image", tooltip=tooltip)


def sampler_name(names: list[str]) -> io.Combo.Input:
    tooltip = "euler is what the experts were trained for; lcm adds fresh noise after every step."
    return io.Combo.Input("sampler_name", options=names, default="euler", optional=True, tooltip=tooltip)


def start_at_step() -> io.Int.Input:
    tooltip = "The first step to run, counted from 0."
    return io.Int.Input("start_at_step", default=0, min=0, max=10000, optional=True, tooltip=tooltip)


def end_at_step() -> io.Int.Input:
    tooltip = "The step to stop before. A run that stops early leaves its noise in the latent."
    return io.Int.Input("end_at_step", default=10000, min=1, max=10000, optional=True, tooltip=tooltip)


def add_noise() -> io.Boolean.Input:
    tooltip = "Off for a latent that has its noise already."
    return io.Boolean.Input("add_noise", default=True, optional=True, tooltip=tooltip)


def batch_size() -> io.Int.Input:
    return io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many clips the latent holds.")


def trained_steps(numbers: list[int], default: int) -> io.Combo.Input:
    tooltip = "The number of steps that the experts were trained for."
    options = [str(number) for number in numbers]
    return io.Combo.Input("steps", options=options, default=str(default), optional=True, tooltip=tooltip)


# --- videos -------------------------------------------------------------------------------------------------------


def video() -> io.Image.Input:
    return io.Image.Input("video", tooltip="The frames of a video.")


def reference_video() -> io.Image.Input:
    tooltip = "The frames of what it is measured by, of the same size: the same seed and prompt in 50 steps, say."
    return io.Image.Input("reference", optional=True, tooltip=tooltip)
