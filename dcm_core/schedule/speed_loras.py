"""Speed LoRAs whose noise levels are known: by the passport in their header, else by their file's name in a table.

A row of the table holds what its source says and nothing else; what no source says stays open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from .curves import shift_sigma
from .passport import Passport, levels, read_passport

# Where trainers write what they call a file.
_TITLES = ("modelspec.title", "ss_output_name")
# Not in "low rank" and the like, but in "HIGH_rank64".
_OTHER_WORDS = r"rank(?![-_. ]?\d)|v?ram|res(?:olution)?(?![a-z])|quality"
_SIDE = re.compile(rf"(?:^|[-_. ])(high|low)(?:[-_. ]?noise|(?![-_. ]?(?:{_OTHER_WORDS}))(?=[-_. ]|$))")


@dataclass(frozen=True)
class SpeedPreset(Passport):
    """A row: a passport, and ``names``, regular expressions for the names of its files.

    An expression is looked for in a file's own name; one that holds a ``/`` in the name of its folder too.
    """

    family: str = "wan"
    names: tuple[str, ...] = ()


def shifted(steps: int, shift: float) -> tuple[float, ...]:
    """Noise levels of ``steps`` equal steps of the time ``u`` from 1 to 0, shifted."""
    return tuple(shift_sigma(1 - step / steps, shift) for step in range(steps))


def trigonometric(*angles: float) -> tuple[float, ...]:
    """Noise levels of times in radians, at which a latent is ``cos t`` of the video and ``sin t`` of the noise."""
    return tuple(math.sin(angle) / (math.sin(angle) + math.cos(angle)) for angle in angles)


# Of a run of fewer steps, the first ones: math.atan(80) is where the authors' noise begins.
_RCM = trigonometric(math.atan(80), 1.5, 1.4, 1.0)

SPEED_PRESETS: dict[str, SpeedPreset] = {
    # Timesteps 1000, 937.5, 833.33, 625 as the authors state them there, and what they suggest for 8 steps;
    # LightX2V configs/distill/wan22 gives the same as 1000, 750, 500, 250 before shift 5, two steps to each model.
    # Its scheduler for them takes plain Euler steps.
    "wan2.2 lightning": SpeedPreset(
        {4: shifted(4, 5.0), 8: shifted(8, 5.0)},
        "https://github.com/ModelTC/LightX2V-Wan2.2-Lightning/issues/3",
        shift=5.0,
        samplers=("euler",),
        cfg=1.0,
        strength=1.0,
        names=(
            r"wan[-._ ]?2[-._ ]?2.*(lightning|lightx2v).*(4[-_ ]?steps?|distill)",
            r"wan2\.2-[ti]2v-a14b-4steps-lora",
            r"wan2\.2-[ti]2v-a14b-4steps-lora[^/]*/(high|low)_noise_model",
        ),
    ),
    # Timesteps 1000, 750, 500, 250 before shift 5: the StepDistill-CfgDistill models and LoRAs, T2V and I2V. LightX2V
    # adds fresh noise after each step (issue 138 there); users run euler as well.
    "wan2.1 lightx2v": SpeedPreset(
        {4: shifted(4, 5.0)},
        "https://github.com/ModelTC/LightX2V/blob/main/configs/distill/wan21/wan_t2v_distill_lora_4step_cfg.json",
        shift=5.0,
        samplers=("lcm", "euler"),
        cfg=1.0,
        strength=1.0,
        names=(r"wan[-._ ]?2[-._ ]?1.*lightx2v", r"^lightx2v_(14b_)?[ti]2v_.*distill"),
    ),
    # Timesteps of the 14B LoRA; they are final, no shift is applied to them (scheduler "flowmatch_causvid").
    "wan2.1 causvid 14B": SpeedPreset(
        {9: (0.999, 0.934, 0.862, 0.756, 0.603, 0.410, 0.250, 0.140, 0.074)},
        "https://github.com/kijai/ComfyUI-WanVideoWrapper",
        cfg=1.0,
        names=(r"causvid.*14b", r"14b.*causvid"),
    ),
    # Likewise of the 1.3B LoRA.
    "wan2.1 causvid 1.3B": SpeedPreset(
        {4: (1.0, 0.750, 0.500, 0.250)},
        "https://github.com/kijai/ComfyUI-WanVideoWrapper",
        cfg=1.0,
        names=(r"causvid.*1[._]3b", r"1[._]3b.*causvid"),
    ),
    # Ten steps of the solver at shift 5, without guidance, as its authors run it.
    "wan2.1 accvid": SpeedPreset(
        {10: shifted(10, 5.0)},
        "https://github.com/aejion/AccVideo",
        shift=5.0,
        samplers=("uni_pc", "euler"),
        cfg=1.0,
        names=(r"wan.*accvid",),
    ),
    # A merge of several, which its users run at shift 2.
    "wan2.1 fusionx": SpeedPreset(
        {steps: shifted(steps, 2.0) for steps in (8, 9, 10)},
        "https://github.com/deepbeepmeep/Wan2GP/blob/main/docs/LORAS.md",
        shift=2.0,
        cfg=1.0,
        strength=1.0,
        names=(r"fusioni?x",),
    ),
    # Final timesteps, each followed by fresh noise (DmdDenoisingStage), of the LoRAs for Wan 2.1 14B and Wan 2.2 5B.
    "fastwan": SpeedPreset(
        {3: (1.0, 0.757, 0.522)},
        "https://github.com/hao-ai-lab/FastVideo/blob/main/fastvideo/configs/pipelines/wan.py",
        samplers=("lcm",),
        cfg=1.0,
        names=(r"fastwan",),
    ),
    # Times of its inference script, "for better visual quality"; each step is followed by fresh noise.
    "wan2.1 rcm": SpeedPreset(
        {steps: _RCM[:steps] for steps in (4, 3, 2, 1)},
        "https://github.com/NVlabs/rcm/blob/main/rcm/inference/wan2pt1_t2v_rcm_infer.py",
        samplers=("lcm",),
        cfg=1.0,
        names=(r"wan.*[-_. ]rcm([-_. ]|$)",),
    ),
    # Timesteps 1000, 750, 500, 250 before shift 5.
    "wan2.1 self-forcing": SpeedPreset(
        {4: shifted(4, 5.0)},
        "https://github.com/hao-ai-lab/FastVideo/blob/main/fastvideo/configs/pipelines/wan.py",
        shift=5.0,
        names=(r"self[-_ ]?forcing.*1[._]3b", r"1[._]3b.*self[-_ ]?forcing"),
    ),
    "fasthunyuan": SpeedPreset(
        {6: shifted(6, 17.0)},
        "https://huggingface.co/FastVideo/FastHunyuan",
        family="hunyuan_video",
        shift=17.0,
        names=(r"(hunyuan|hy)_?video.*fastvideo", r"fast[-_ ]?hunyuan"),
    ),
    "hunyuan accvid": SpeedPreset(
        {5: shifted(5, 7.0)},
        "https://github.com/aejion/AccVideo",
        family="hunyuan_video",
        shift=7.0,
        cfg=1.0,
        names=(r"hunyuan.*accvid", r"accvid(eo)?.*hunyuan"),
    ),
}


def find_preset(name: str) -> SpeedPreset | None:
    """The row that a file's name, with its folders before it, belongs to, with its title; None for an unknown one.

    Raises ValueError for a name that fits several rows.
    """
    path = name.replace("\\", "/").lower()
    own = path.rpartition("/")[2].removesuffix(".safetensors").removesuffix(".sft")
    found = [title for title, row in SPEED_PRESETS.items() if _fits(row.names, path, own)]
    if len(found) > 1:
        raise ValueError(
            f"{name} may be {' or '.join(found)} by its name: write the noise levels into it (python -m "
            "dcm_core.convert stamp), or give it a name that says one of them."
        )
    return known_preset(found[0]) if found else None


def known_preset(name: str) -> SpeedPreset:
    """The row of this name, with its title. Raises ValueError for an unknown one."""
    if name not in SPEED_PRESETS:
        raise ValueError(f"preset {name!r} is unknown: known are {', '.join(SPEED_PRESETS)}.")
    return replace(SPEED_PRESETS[name], title=name)


def speed_sigmas(name: str, steps: int) -> Tensor:
    """Noise levels of a preset: float32 [steps + 1], falling, ends with 0; 0 ``steps`` are the usual number.

    Raises ValueError for an unknown name, and for a number of steps that was not published.
    """
    lists = known_preset(name).sigmas
    if steps and steps not in lists:
        raise ValueError(
            f"{name} was published for {' or '.join(map(str, sorted(lists)))} steps, not for {steps}: change steps, or "
            "choose another preset."
        )
    return levels(SPEED_PRESETS[name], steps)


@dataclass(frozen=True)
class SpeedLora:
    """A LoRA whose noise levels are known. ``why`` ends the sentence that says which: "by its file's name".

    ``strength``: what it is loaded with; None where nobody tells.
    """

    passport: Passport
    why: str
    strength: float | None = None

    @property
    def title(self) -> str:
        return self.passport.title

    @property
    def is_misused(self) -> bool:
        """Is its strength less than half of the one that it is made for, or more than three times that?

        Up to three times is usual at high noise, against the slow motion of Wan 2.2 with LoRAs made for 2.1.
        """
        meant = self.passport.strength
        return meant is not None and self.strength is not None and not 0.5 <= self.strength / meant <= 3


def recognise(header: Mapping[str, str], name: str = "") -> SpeedLora | None:
    """The speed LoRA that a file is by its header or, where that says nothing, by its name; None for an unknown one.

    ``name``: the file's, with its folders before it where they are known. Raises ValueError for a passport that is
    unreadable or contradicts itself, and for a name that fits several rows of the table.
    """
    if passport := read_passport(header):
        title = passport.title or name.replace("\\", "/").rpartition("/")[2] or "this LoRA"
        return SpeedLora(replace(passport, title=title), "by its own metadata")
    for known, why in ((name, "by its file's name"), *((header.get(key, ""), "by its title") for key in _TITLES)):
        if preset := find_preset(known):
            return SpeedLora(replace(preset, expert=side_of(known)), why)
    return None


def side_of(name: str) -> str:
    """ "high" or "low" where a file's name, or else its folder's, says which model of a pair it is for, or nothing."""
    folder, _, own = name.replace("\\", "/").lower().rpartition("/")
    for part in (own, folder.rpartition("/")[2]):
        sides = {*_SIDE.findall(part)}
        if sides:
            return sides.pop() if len(sides) == 1 else ""
    return ""


def _fits(expressions: Iterable[str], path: str, own: str) -> bool:
    return any(re.search(each, path if "/" in each else own) for each in expressions)
