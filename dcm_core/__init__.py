"""DCM: dual-expert consistency sampling and distillation for video models.

A semantic expert takes the noisy part of a trajectory (layout and motion), a detail expert the rest
(texture and edges). This package is the method itself, shared by the ComfyUI nodes and the trainer. It
imports neither of them.
"""

__version__ = "0.1.0"
