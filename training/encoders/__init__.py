"""Autoencoders and text encoders, one file a backbone. Adding one is adding a file here that names it ``ENCODER``."""
