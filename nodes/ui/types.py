"""The pack's own link type."""

from comfy_api.latest import io

DcmExpert = io.Custom("DCM_EXPERT")
