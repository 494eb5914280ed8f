"""Files between layouts: backbones, released bundles and expert files, of any size in little memory.

The command line is ``python -m dcm_core.convert``; what it does stands in ``backbone`` (whole backbones),
``detail`` and ``semantic`` (expert files, bundles), ``stamp`` (noise levels into a LoRA's file) and ``report`` (what a
file is), for use in other programs.
"""
