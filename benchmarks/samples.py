"""What a sample costs beside the engine: seconds from prompts handed to the agent loops until their samples are in the queue.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.samples [--rounds 5] [--samples 256 2048] ...

The engine is an actor that answers at once, behind verl's own client and load balancer; agent loops, rewards and queue are
those of a run. verl's manager of the agent loops and ours take turns, in one Ray, and must make the same samples. On an
otherwise idle machine.
"""

import argparse
import os
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
import transfer_queue as tq
from fault_injection.smallest_run import smallest_run
from omegaconf import DictConfig

from recipe.holderpo.config.compose import compose_config, resolve, set_environment

N = 8
"""Samples of a prompt."""
POLL_SECONDS = 0.02  # as our trainer


@ray.remote(num_cpus=0, max_concurrency=1000)
class InstantServer:
    """vLLM's server as verl calls it, with an answer of so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        answer = [(prompt_ids[-1] + number) % 100 + 10 for number in range(self.tokens)]
        return TokenOutput(
            token_ids=answer, log_probs=[-1.0] * self.tokens, stop_reason="completed", extra_fields={"global_steps": 1}
        )


def managers(config: DictConfig, rewards: Any, tokens: int) -> dict[str, Any]:
    """verl's and ours, each with a server of its own."""
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ
    from verl.workers.rollout.llm_server import LLMServerClient
    from verl.workers.rollout.router import GlobalRequestLoadBalancer

    from recipe.holderpo.training.agent_loop_manager import HolderAgentLoopManager

    found = {}
    for name, manager in (("verl", AgentLoopManagerTQ), ("ours", HolderAgentLoopManager)):
        server = InstantServer.remote(tokens)  # type: ignore[attr-defined]
        balancer = ray.remote(num_cpus=0)(GlobalRequestLoadBalancer).remote(servers={"0": server})
        client = LLMServerClient(config, load_balancer_handle=balancer)
        found[name] = manager.create(
            config=config, llm_client=client, teacher_client=None,
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )  # fmt: skip
    return found


def prompts(rows: list[dict[str, Any]], count: int, mark: str) -> Any:
    """A batch as verl's trainer submits it."""
    from verl.utils import tensordict_utils as tu
    from verl.utils.dataset.rl_dataset import collate_fn

    batch = collate_fn([rows[i % len(rows)] for i in range(count)])
    batch["uid"] = np.array([f"{mark}-{i}" for i in range(count)], dtype=object)
    made = tu.get_tensordict(batch)
    tu.assign_non_tensor_data(made, "global_steps", 1)
    return made


def seconds(manager: Any, batch: Any) -> tuple[float, dict[str, Any]]:
    """Until all prompts are finished, and what their samples are."""
    uids = list(batch["uid"])
    began = time.monotonic()
    tq.kv_batch_put(keys=uids, partition_id="train", tags=[{"is_prompt": True, "status": "pending"} for _ in uids])
    manager.generate_sequences(batch)
    while True:
        tags = tq.kv_list(partition_id="train")["train"]
        states = [tags[uid].get("status") for uid in uids]
        if "failure" in states:
            raise RuntimeError("a prompt has failed")
        if all(state == "finished" for state in states):
            break
        time.sleep(POLL_SECONDS)
    took = time.monotonic() - began
    keys = sorted(key for key in tags if key not in set(uids))
    data = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=["responses", "rm_scores", "prompts"])
    found = {
        key: tuple(tuple(data[name][row].tolist()) for name in ("prompts", "responses", "rm_scores"))
        for row, key in enumerate(keys)
    }
    tq.kv_clear(keys=[*uids, *keys], partition_id="train")
    return took, found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samples", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    for name, values in (("workers", [1, 8]), ("samples", [256, 2048]), ("tokens", [10, 300])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="samples"))
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="r", dir="/tmp")
    print(
        "| agent loop workers | samples | tokens each | verl, ms a sample | ours | ratio |\n|---|---|---|---|---|---|"
    )
    for workers, samples, tokens in product(arguments.workers, arguments.samples, arguments.tokens):
        overrides = [
            "reward.custom_reward_function.path=pkg://recipe.holderpo.rewards.boxed",
            f"actor_rollout_ref.rollout.n={N}", f"actor_rollout_ref.rollout.agent.num_workers={workers}",
            "data.max_response_length=512", "actor_rollout_ref.rollout.max_model_len=1024", f"run_dir={folder}/run",
        ]  # fmt: skip
        (made := folder / f"{workers}-{samples}-{tokens}").mkdir()
        config = resolve(compose_config([*smallest_run(made), *overrides]))
        set_environment(config)
        print(measure(config, samples, tokens, workers, arguments.rounds), flush=True)


def measure(config: DictConfig, samples: int, tokens: int, workers: int, rounds: int) -> str:
    """A row of the table."""
    from verl.experimental.reward_loop import RewardLoopManager
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils import hf_tokenizer

    tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
    dataset = create_rl_dataset(config.data.train_files, config.data, tokenizer, None, is_train=True, max_samples=256)
    rows = [dataset[i] for i in range(len(dataset))]
    environment = {"env_vars": {"TRANSFER_QUEUE_ENABLE": "1", "VERL_PLATFORM": "cpu"}}
    ray.init(address="local", num_cpus=32, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    tq.init(config.transfer_queue)
    try:
        both = managers(config, RewardLoopManager(config=config, rm_resource_pool=None), tokens)
        took: dict[str, list[float]] = {name: [] for name in both}
        for turn in range(rounds + 1):  # the first is a warm-up
            made = {}
            for name, manager in both.items():
                one, made[name] = seconds(manager, prompts(rows, samples // N, f"u{turn}"))
                took[name] += [one] * (turn > 0)
            if made["verl"] != made["ours"] or len(made["ours"]) != samples:
                raise RuntimeError("the samples differ")
    finally:
        tq.close()
        ray.shutdown()
    verl, ours = (1000 * median(took[name]) / samples for name in ("verl", "ours"))
    return f"| {workers} | {samples} | {tokens} | {verl:.2f} | {ours:.2f} | {ours / verl:.2f} |"


if __name__ == "__main__":
    main()
