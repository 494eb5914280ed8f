"""Trainer = Method x Backbone x Callbacks x Config: distils a video backbone into a semantic and a detail expert."""
