"""What is known about a backbone family, as one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..schedule.experts import ExpertSchedule, Threshold
from ..schedule.grid import NoiseGrid
from ..schedule.pairs import pair_schedule
from ..schedule.speed_loras import SPEED_PRESETS
from .keymap import KeyMap, Shapes
from .relatives import Relative, find_relative, unknown_relative


@dataclass(frozen=True)
class Published:
    """How released weights were run: the switch, the sigmas by number of steps without the final 0, and whether the
    network was told timesteps in bfloat16."""

    switch: Threshold
    lists: Mapping[int, tuple[float, ...]]
    bf16_timesteps: bool = False


@dataclass(frozen=True)
class Pair:
    """Two whole models of the family that share one run, of which the first takes the high noise.

    ``text`` and ``image``: the noise level (sigma in 0..1) from which on it acts, in text and in image to video.
    ``preset``: the speed preset whose noise levels they are run down, on ``grid``; other runs are spread evenly on it.
    """

    text: float
    image: float
    grid: NoiseGrid
    preset: str

    @property
    def lists(self) -> Mapping[int, tuple[float, ...]]:
        """Noise levels by number of steps."""
        return SPEED_PRESETS[self.preset].sigmas

    def schedule(self, takes_image: bool) -> ExpertSchedule:
        """The schedule of a pair for this task."""
        return pair_schedule(self.image if takes_image else self.text, self.grid, self.lists)


@dataclass(frozen=True)
class Family:
    """A backbone family: backbones of one network class and one noise schedule, which can share experts.

    * ``name``: as ``dcm.family`` in files; ``title``: for people.
    * ``keymap``: its names in every layout, shared by families of one network class.
    * ``schedule``: of experts made for it by this project; ``published``: how released weights were run.
    * ``host_class``: ComfyUI's class of ``comfy.model_base`` by name, there from version ``host_since`` on.
      ``host_latents``: the class of its latent format by name, where families of one class differ in it.
      ``host_patch``: the module of ``nodes/backbone`` by name that patches its MODELs, where the host does not run them
      as they were released.
    * ``belongs``: is a backbone with these shapes (by ComfyUI's names) of this family, among those of its class?
    * ``input_layer``: the first layer, whose input channels tell what the network takes beside the noisy latents.
    * ``embedded_guidance``: is the network told a guidance scale, as HunyuanVideo's is?
    * ``bundle_guidance``: what a bundle of the family was trained under, which no file says. Wan's targets were
      guided with CFG 6, HunyuanVideo's network was told an embedded guidance of 6.
    * ``pair``: where two whole models of the family share a run.
    * ``called``: how trainers call its backbones in the metadata of LoRAs, lowercase, as a regular expression.
    * ``relatives``: other models over its network, the more special ones first.
    """

    name: str
    title: str
    keymap: KeyMap
    schedule: ExpertSchedule
    host_class: str
    input_layer: str
    host_since: str = ""
    host_latents: str = ""
    host_patch: str = ""
    published: Published | None = None
    belongs: Callable[[Shapes], bool] = lambda shapes: True
    embedded_guidance: bool = False
    bundle_guidance: float = 6.0
    pair: Pair | None = None
    called: str = ""
    relatives: tuple[Relative, ...] = ()

    @property
    def published_schedule(self) -> ExpertSchedule | None:
        """The schedule that released weights were run with; None where none were released."""
        if self.published is None:
            return None
        return replace(self.schedule, switch=self.published.switch, lists=self.published.lists)

    def relative(self, shapes: Shapes) -> Relative | None:
        """The other model over its network that one with these shapes (by ComfyUI's names) is, if it is one."""
        if not self.relatives:
            return None
        return find_relative(self.relatives, shapes, shapes) or unknown_relative(self.keymap, self.title, shapes)

    @property
    def bundle_schedule(self) -> ExpertSchedule:
        """The schedule of the experts in a released bundle."""
        return self.published_schedule or self.schedule
