"""The Shapes world: small backbones of the Wan class, with latents and noise levels of their own."""

from ..schedule.experts import ExpertSchedule
from ..schedule.grid import NoiseGrid
from .family import Family
from .wan import KEYMAP

FAMILIES = (
    Family(
        name="shapes",
        title="Shapes",
        called=r"^shapes(?![a-z])",
        keymap=KEYMAP,
        # On the published grid too. A change of prompt in the middle of a teacher run shows when each attribute is
        # settled: motion between sigma 0.85 and 0.70, colour and shape between 0.60 and 0.30. Kappa is 0.764.
        schedule=ExpertSchedule(NoiseGrid(shift=17.0, points=50), kappa_index=7),
        host_class="WAN21",
        host_latents="ShapesLatents",
        input_layer="patch_embedding",
        belongs=lambda shapes: False,  # a file of this world does not differ from Wan's: its own node loads it
    ),
)
