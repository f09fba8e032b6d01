"""For all tests: one thread per process, since those of several processes on the same few cores mostly wait for each other;
and no deadline for an example of a property, since a busy machine may take any time for it."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")
