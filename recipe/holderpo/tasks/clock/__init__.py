"""The default task: the hour on a clock's face after six turns of its hand, every hour on the way written out.

The answers are long enough, and the updates on each batch many enough, that the order p matters (docs/study)."""

from recipe.holderpo.tasks.registry import Task

TASK = Task(
    data={"clock": "recipe.holderpo.tasks.clock.problems:ensure_data"},
    models={"clock": "recipe.holderpo.tasks.clock.pretrain:ensure_model"},
)
