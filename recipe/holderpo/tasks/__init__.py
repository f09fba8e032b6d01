"""The tasks, a module or a folder each, found by `recipe.holderpo.tasks.registry`. CONTRIBUTING.md: how to add one."""
