"""Rewards: reward functions in the form that verl calls, and the grading of mathematical answers."""
