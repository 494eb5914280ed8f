"""The pack's own link type."""

from comfy_api.v0_0_2 import io

DcmExpert = io.Custom("DCM_EXPERT")
