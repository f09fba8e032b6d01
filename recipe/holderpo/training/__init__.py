"""HölderPO inside verl: the trainer and its parts, the worker, the task runner, agent loops and the CPU platform."""
