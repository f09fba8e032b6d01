"""What embedded tasks share: a cache of built folders, data files, a small model and its supervised training."""
