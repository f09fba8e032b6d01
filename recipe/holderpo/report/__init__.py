"""What a run leaves behind: the record of each step, the console's lines, the curves and the final table."""
