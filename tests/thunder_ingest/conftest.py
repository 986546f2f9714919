"""No test asserts a time: the first example of a kernel compiles it."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
