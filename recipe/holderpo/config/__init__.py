"""The config of a run: composed by Hydra, checked before Ray starts, and the files that it names."""
