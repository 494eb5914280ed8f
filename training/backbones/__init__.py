"""Backbone adapters, one file each, over a diffusers transformer.

Adding one is adding a file here that names its class ``BACKBONE``.
"""
