"""Property tests run without a deadline: how long an example takes says nothing about the code."""

from hypothesis import settings

settings.register_profile("dcm", deadline=None)
settings.load_profile("dcm")
