"""Data sets, one file each. Adding one is adding a file here that names its class ``DATA``."""

TO_COME = "Real videos are to come."
