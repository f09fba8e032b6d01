"""Grading of untrusted answers: found and matched here where that is cheap, else verified in isolated processes."""
