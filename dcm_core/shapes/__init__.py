"""The Shapes world: a complete small text-to-video world whose truth is known exactly.

Clips of a textured shape moving over a background, their captions, a weightless text encoder, a fixed linear video
autoencoder, and a read-out that measures from the pixels what a clip shows.
"""
