"""The study of p: many small runs in plain PyTorch with the core's own loss, schedules and rules (docs/study)."""
