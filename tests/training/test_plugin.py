"""The entry point: `pip install` alone makes loss mode holder known, a failure is seen, the CPU platform stays out."""

import os
import subprocess
import sys
from pathlib import Path


def _python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("VERL_PLATFORM", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=clean | env, capture_output=True, text=True, timeout=120
    )


def test_loss_mode_is_registered_in_any_process() -> None:
    done = _python(
        "from verl.trainer.ppo.core_algos import get_policy_loss_fn; print(get_policy_loss_fn('holder').__module__)"
    )
    assert done.stdout.strip() == "recipe.holderpo.policy_loss", done.stderr


def test_cpu_platform_is_inert_unless_selected() -> None:
    code = (
        "import importlib.metadata as m; before = m.version\n"
        "import sys, verl\n"
        "print('recipe.holderpo.training.cpu_platform' in sys.modules, m.version is before)\n"
        "from verl.plugin.platform.platform_manager import PlatformRegistry; print('cpu' in PlatformRegistry._platforms)"
    )
    assert _python(code).stdout.split() == ["False", "True", "False"]
    assert _python(code, VERL_PLATFORM="cpu").stdout.split() == ["True", "False", "True"]


def test_vllms_executor_makes_no_semaphore_with_a_name() -> None:
    """As in its engine's process, which is spawned: such a semaphore stays in /dev/shm when the process is killed."""
    code = (
        "import multiprocessing; multiprocessing.set_start_method('spawn')\n"
        "from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "from vllm.v1.executor import uniproc_executor\n"
        "print(multiprocessing.Lock()._semlock.name is None, uniproc_executor.Lock()._semlock.name is None)"
    )
    done = _python(code, VERL_PLATFORM="cpu")
    assert done.stdout.split()[-2:] == ["False", "True"], done.stderr


def test_a_plugin_that_fails_to_load_is_seen(tmp_path: Path) -> None:
    (tmp_path / "wrapt.py").write_text("raise ImportError('broken on purpose')")
    done = _python("import verl", PYTHONPATH=str(tmp_path))
    assert "holderpo: the verl plugin failed to load" in done.stderr and "broken on purpose" in done.stderr
