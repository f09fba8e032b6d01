"""The smallest run of the real stack: an untrained model of some ten thousand parameters on arithmetic."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.tasks.arithmetic.problems import ensure_data


def smallest_run(folder: Path) -> list[str]:
    """Make its model and data in the folder; return its overrides: 8 prompts x 4 samples, mini-batches of 4 prompts."""
    tokenizer = build_tokenizer()
    model = build_model(
        TinyModelConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2), tokenizer, seed=1
    )
    (folder / "model").mkdir()
    save_model(model, tokenizer, folder / "model")
    train, val = ensure_data(folder)
    return [
        "model=tiny",
        "embedded_model=null",
        "embedded_data=null",
        f"actor_rollout_ref.model.path={folder}/model",
        f"data.train_files={train}",
        f"data.val_files={val}",
        f"reward.custom_reward_function.path={Path(__file__).with_name('any_reward.py')}",
        "data.train_batch_size=8",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
    ]


def verls_own_command(overrides: Sequence[str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments of `python -m` for verl's own main with these settings, and its environment variables. Its metrics go to
    folder/log.jsonl."""
    OmegaConf.save(compose_config([*overrides, f"run_dir={folder}/run"]), folder / "config.yaml")
    arguments = [
        "verl.trainer.main_ppo", f"--config-path={folder}", "--config-name=config", "trainer.logger=[file]",
        "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent",
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class=null", "trainer.rollout_data_dir=null",
        "trainer.resume_mode=disable", f"hydra.run.dir={folder}/hydra",
    ]  # fmt: skip
    variables = {
        "VERL_PLATFORM": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VERL_FILE_LOGGER_PATH": str(folder / "log.jsonl"),
    }
    return arguments, variables
