"""The default task: sums of three digits, with a small model that is pre-trained on them when it is first needed."""

from recipe.holderpo.tasks.registry import Task

TASK = Task(
    data={"arithmetic": "recipe.holderpo.tasks.arithmetic.problems:ensure_data"},
    models={"tiny": "recipe.holderpo.tasks.arithmetic.pretrain:ensure_tiny_model"},
)
