"""One sampling run: who takes part, its noise levels, its guider, and what is worth saying about it."""
