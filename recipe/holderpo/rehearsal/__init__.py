"""A rehearsal on a CPU of what a cluster would run."""
