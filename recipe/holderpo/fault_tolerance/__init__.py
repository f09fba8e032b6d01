"""What a run does when something goes wrong: checkpoints, resume, restarts, lost processes, SIGTERM, collapse."""
