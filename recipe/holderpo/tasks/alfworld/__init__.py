"""ALFWorld: multi-turn agents in the real text environment, trained in verl's agent loop."""

from recipe.holderpo.tasks.registry import Task

_HERE = "recipe.holderpo.tasks.alfworld"

TASK = Task(
    data={f"alfworld_{size}": f"{_HERE}.dataset:ensure_{size}_data" for size in ("tiny", "small", "full")},
    models={"alfworld_warm": f"{_HERE}.warm_start:ensure_warm_start"},
    settings=f"{_HERE}.settings:AlfworldSettings",
    check=f"{_HERE}.settings:check",
    check_reads=("data.max_response_length", "algorithm.adv_estimator", "embedded_model"),
    # How episodes are played in parallel and where they are written does not change what they are.
    free_keys=("alfworld.workers", "alfworld.episodes_per_worker", "alfworld.step_timeout", "alfworld.transcripts"),
    rehearsal={
        "alfworld.prompt": "compact",
        "alfworld.max_steps": 4,
        "alfworld.workers": 1,
        "alfworld.answer_tokens": "${data.max_response_length}",
    },
    rehearsal_data=f"{_HERE}.dataset:make_a_few",
    episodes=f"{_HERE}.report:last_episodes",
    advantages={name: f"{_HERE}.advantage:{name}" for name in ("step_grpo", "gigpo")},
)
