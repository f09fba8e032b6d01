"""ALFWorld: multi-turn agents in the real text environment, trained in verl's agent loop."""
