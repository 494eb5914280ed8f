"""Safetensors files as bytes: read lazily, streamed, sharded, written whole or not at all."""
