"""Wrong overrides by the hundred: how many are refused before Ray starts, which pass, and whether any ends in a trace.

Every key of ours and every key of verl's that a file in conf/ sets gets values of other types, out of range, null, and a
misspelt neighbour. They are put into one composed config each, which then goes through the command's checks of a config.

    python -m benchmarks.overrides [--only PREFIX]
"""

import argparse
import copy
import fnmatch
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.checks import check_config, check_with_verl
from recipe.holderpo.config.compose import CONF, compose_config, set_environment
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.inputs import check_inputs
from recipe.holderpo.config.values import leaves
from recipe.holderpo.tasks.registry import make_embedded

BASE = ("model=tiny", "hardware=cpu", "run_dir=/tmp/holderpo-overrides")
NOT_TOLD = ("defaults", "hydra")  # Hydra's own

# What passes, and why that is right: patterns of KEY=VALUE.
HARMLESS = {
    "[!.]*x=1": "at the top of the config: a variable of your own, which Hydra takes with a + alone",
    "env.*x=1": "an environment variable may have any name",
    "ray_kwargs.ray_init._*x=1": "Ray's private arguments are not told apart; Ray refuses what it does not know",
    "*.override_config.attn_implementationx=1": "anything of the model's own config may be set",
    "*.engine_kwargs.vllm.*x=1": "vLLM's own arguments: it refuses what it does not know when its engine starts",
    "*.distributed_executor_backend=None": "vLLM's own choice",
    "*.distributed_executor_backend='no such thing'": "vLLM refuses it when its engine starts",
    "run='no such thing'": "any name",
    "run_dir='no such thing'": "is made",
    "cache_dir='no such thing'": "is made",
    "algo_name='no such thing'": "a name in the titles",
    "model_name='no such thing'": "a name in the titles",
    "trainer.project_name='no such thing'": "any name",
    "trainer.experiment_name='no such thing'": "any name",
    "trainer.default_local_dir='no such thing'": "is made",
    "trainer.validation_data_dir=*": "is made; null: none is kept",
    "embedded_*=None": "the model or data lie there already",
    "data.seed=*": "PyTorch takes any whole number; null: none",
    "*.rollout.seed=-*": "vLLM takes any whole number",
    "*.data_loader_seed=-*": "PyTorch takes any whole number",
    "holder.p_*=-1000000000": "p may be any number; this one is a minimum but for rounding",
    "algorithm.filter_groups.metric=*": "not read while algorithm.filter_groups.enable is false",
    "ray_kwargs.ray_init.address=None": "Ray looks for a cluster by itself",
    "ray_kwargs.ray_init._node_ip_address=None": "Ray's own choice",
    "ray_kwargs.ray_init.num_?pus=None": "Ray counts them; refused before Ray starts where they are too few (check_cluster)",
    "ray_kwargs.ray_init.include_dashboard=None": "Ray's own choice",
    "ray_kwargs.ray_init.log_to_driver=None": "as false",
    "reward.reward_manager.module.path=*": "not read while reward.reward_manager.source is register",
    "*.kv_cache_memory_bytes=None": "vLLM's own choice",
    "*.min_lr_ratio=None": "verl's own default",
    "*.max_model_len=None": "prompt and response together",
    "*.log_prob_micro_batch_size_per_gpu=None": "the rollout's counts",
}


def keys_of_presets(folder: Path = CONF) -> list[str]:
    """The keys that the files in conf/ set, ours and verl's."""
    found = dict[str, None]()
    for file in [folder / "holderpo.yaml", *sorted(folder.glob("[!e]*/*.yaml"))]:
        for key, _ in leaves(OmegaConf.to_container(OmegaConf.load(file))):
            if key.split(".")[0] not in NOT_TOLD:
                found[key] = None
    return [*found]


def wrong_values(value: Any) -> list[Any]:
    """Values of other kinds than this one, null, and numbers that nothing allows."""
    if isinstance(value, bool):
        return ["maybe", 3, None, [True]]
    if isinstance(value, int | float):
        return ["abc", -(10**9), float("nan"), None, [1], {"a": 1}]
    if isinstance(value, str):
        return [5, None, ["a", "b"], "no such thing"]
    if isinstance(value, list):
        return ["no such thing", 5, None, {"a": 1}]
    if isinstance(value, dict):
        return [None, 5, "no such thing"]
    return ["no such thing", [1, "b"], -(10**9)]  # null


def cases(config: DictConfig, keys: list[str]) -> Iterator[tuple[str, Any]]:
    """(key, wrong value) for each of the keys that the config has, and a neighbour of each that no schema knows."""
    for key in keys:
        group, _, name = key.rpartition(".")
        parent = OmegaConf.select(config, group) if group else config
        if OmegaConf.is_dict(parent) and name in parent:
            value = OmegaConf.select(config, key)
            plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            yield from ((key, wrong) for wrong in wrong_values(plain))
            yield f"{key}x", 1


def outcome(config: DictConfig, key: str, value: Any) -> str:
    """What the command's checks say to a config with one more override: "" if they pass, else the message."""
    changed = copy.deepcopy(config)
    OmegaConf.update(changed, key, value, merge=False, force_add=True)
    try:
        set_environment(changed)
        check_config(changed)
        check_with_verl(changed)
        with redirect_stdout(io.StringIO()):
            check_inputs(changed)
    except ConfigError as error:
        return str(error)
    return ""


def why_harmless(key: str, value: Any) -> str | None:
    """The reason for which an override that passes is right to pass; None if none is known."""
    override = f"{key}={value!r}"
    for pattern, reason in HARMLESS.items():
        if fnmatch.fnmatchcase(override, pattern) and not (pattern.startswith("[!.]") and "." in key):
            return reason
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="keys that begin with this alone")
    prefix = parser.parse_args().only
    warnings.simplefilter("ignore")
    config = compose_config(BASE)
    make_embedded(config.embedded_model, config.embedded_data, Path(config.cache_dir))
    if said := outcome(config, "seed", 1):
        raise SystemExit(f"error: the config itself is refused: {said}")
    counts = Counter[str]()
    for key, value in cases(config, [key for key in keys_of_presets() if key.startswith(prefix)]):
        try:
            said = outcome(config, key, value)
        except Exception as error:
            print(f"TRACE   {key}={value!r}: {type(error).__name__}: {' '.join(str(error).split())[:100]}", flush=True)
            counts["stack traces"] += 1
            continue
        reason = None if said else why_harmless(key, value)
        counts["refused" if said else "harmless" if reason else "passed"] += 1
        if not said:
            print(
                f"{'passes  ' if reason else 'PASSED  '} {key}={value!r}{': ' if reason else ''}{reason or ''}",
                flush=True,
            )
    print(f"{counts.total()} tried: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    raise SystemExit(1 if counts["passed"] or counts["stack traces"] else 0)


if __name__ == "__main__":
    main()
