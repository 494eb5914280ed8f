"""From files of videos to a cache of latents and text embeddings; what ``training/prepare.py`` runs."""
