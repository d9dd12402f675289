"""How thoroughly Hypothesis searches: `make test` takes the profile `fast`, `make test-all` the profile `thorough`."""

from hypothesis import settings

settings.register_profile("fast", max_examples=8, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=50, deadline=None)
settings.load_profile("fast")
