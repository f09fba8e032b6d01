"""For all tests: one thread per process. Those of several processes on the same few cores mostly wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
