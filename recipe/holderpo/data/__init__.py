"""Data sets of mathematical problems for training and evaluation: `python -m recipe.holderpo.data --help`."""
