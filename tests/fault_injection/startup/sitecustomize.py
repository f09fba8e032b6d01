"""Found by every Python process of a watched run. Imports allocate so much that the garbage collector's passes over it cost a
seventh of a start."""

import gc

gc.set_threshold(100_000, 50, 50)
