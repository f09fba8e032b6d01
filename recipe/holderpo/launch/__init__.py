"""Starting a run on one node or many: `python -m recipe.holderpo.launch`, which scripts/run_qwen_math.sh calls."""
