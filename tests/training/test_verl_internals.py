"""verl's and TransferQueue's private names that HölderPO uses: each is still there, and does what is said of it."""

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import transfer_queue.interface as queue
from omegaconf import OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.v1 import trainer_base, trainer_colocate_async, trainer_separate_async, trainer_sync
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.utils.debug import marked_timer as verls_timer
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.fault_tolerance.progress import MICRO_BATCHES, micro_batches
from recipe.holderpo.startup.server import INTERPRETER, ForkServer
from recipe.holderpo.training import task_runner, verl_internals
from recipe.holderpo.training.task_runner import RAY_STARTS, SLOW_START, start_ray
from recipe.holderpo.training.trainer import HolderTrainerMixin


def test_the_methods_that_are_overridden_are_verls() -> None:
    own = {name for name in vars(HolderTrainerMixin) if name in vars(PPOTrainer) and name.startswith("_")}
    assert own - {"__init__", "__module__", "__doc__", "__abstractmethods__", "_abc_impl"} == set(
        verl_internals.OVERRIDDEN
    )
    step = (
        inspect.getsource(PPOTrainer.fit)
        + inspect.getsource(PPOTrainer._step_once)
        + inspect.getsource(PPOTrainer.init)
    )
    step += inspect.getsource(PPOTrainer.__init__) + inspect.getsource(PPOTrainer._setup)
    for name in set(verl_internals.OVERRIDDEN) - {"_fetch_one_gen_batch"}:
        assert f"self.{name}(" in step, f"verl no longer calls {name} where a step or its preparation is"
    assert "self._fetch_one_gen_batch(" in inspect.getsource(PPOTrainer._next_train_batch)


def test_the_task_runner_is_verls_undecorated_class() -> None:
    assert verl_internals.TaskRunner.__name__ == "TaskRunnerV1" and isinstance(verl_internals.TaskRunner, type)
    assert hasattr(verl_internals.TaskRunner, "init_agent_loop_manager")
    assert isinstance(TaskRunnerV1, ray.actor.ActorClass)


def test_the_replay_buffer_polls_as_often_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inspect.signature(ReplayBuffer).parameters["poll_interval"].default == 2.0
    assert "self.poll_interval" in inspect.getsource(ReplayBuffer)
    buffer = verl_internals.poll_replay_buffer_every(object.__new__(ReplayBuffer), 0.25)
    assert buffer.poll_interval == 0.25


def test_the_loss_function_carries_the_actors_config() -> None:
    assert "partial(ppo_loss, config=actor_config)" in inspect.getsource(ActorRolloutRefWorker.init_model)
    config = object()
    assert verl_internals.actor_config(partial(print, config=config)) is config


def test_a_save_goes_through_the_engines_checkpoint_manager() -> None:
    assert "self.checkpoint_manager.save_checkpoint(" in inspect.getsource(FSDPEngine.save_checkpoint)
    assert "self.engine.save_checkpoint(" in inspect.getsource(TrainingWorker.save_checkpoint)
    assert callable(FSDPCheckpointManager.save_checkpoint)
    calls: list[str] = []
    manager = SimpleNamespace(save_checkpoint=lambda: calls.append("verl's"))
    worker = SimpleNamespace(actor=SimpleNamespace(engine=SimpleNamespace(checkpoint_manager=manager)))

    def wrap(save: Callable[..., None]) -> Callable[..., None]:
        def wrapped() -> None:
            calls.append("ours")
            save()

        return wrapped

    verl_internals.wrap_save(worker, wrap)
    manager.save_checkpoint()
    assert calls == ["ours", "verl's"]


def test_an_update_goes_through_the_workers_train_batch() -> None:
    assert "self.train_batch(" in inspect.getsource(TrainingWorker.train_mini_batch)
    assert "self.actor.train_mini_batch(" in inspect.getsource(ActorRolloutRefWorker.update_actor)
    worker = SimpleNamespace(actor=SimpleNamespace(train_batch=lambda data: data + 1))
    verl_internals.wrap_update(worker, lambda update: lambda data: 10 * update(data))
    assert worker.actor.train_batch(3) == 40


def test_the_parts_of_a_step_are_timed_by_a_function_that_the_trainers_import(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = (trainer_base, trainer_sync, trainer_colocate_async, trainer_separate_async)
    for module in modules:
        monkeypatch.setattr(module, "marked_timer", verls_timer)
        assert 'marked_timer("' in inspect.getsource(module)
    for name in ("gen", "old_log_prob", "adv", "update_actor"):
        assert f'marked_timer("{name}"' in inspect.getsource(PPOTrainer._step_once)
    entered: list[tuple[str, str]] = []

    def phase_of(trainer: str) -> Callable[[str], Any]:
        @contextmanager
        def phase(name: str) -> Iterator[None]:
            entered.append((trainer, name))
            yield

        return phase

    for trainer in ("first", "second"):  # a second trainer in a process takes the first one's place
        verl_internals.time_phases(phase_of(trainer))
        for module in modules:
            seconds: dict[str, float] = {}
            with module.marked_timer("gen", seconds, color="red"):
                assert entered == [(trainer, "gen")]
            entered.clear()
            assert seconds["gen"] >= 0


def test_a_training_workers_models_are_its_engines() -> None:
    assert "self.engine" in inspect.getsource(TrainingWorker.__init__)
    assert "self.module = " in inspect.getsource(FSDPEngine)
    for part in ("actor", "ref"):
        assert f"self.{part} = " in inspect.getsource(ActorRolloutRefWorker.init_model)
    actor, ref = (SimpleNamespace(engine=SimpleNamespace(module=name)) for name in ("actor's", "reference's"))
    assert verl_internals.modules_of(SimpleNamespace(actor=actor, ref=None)) == ["actor's"]
    assert verl_internals.modules_of(SimpleNamespace(actor=actor, ref=ref)) == ["actor's", "reference's"]


def test_the_queues_handles_are_where_they_are_looked_for() -> None:
    assert hasattr(queue, "_TQ_CONTROLLER") and hasattr(queue, "_TQ_STORAGE")
    source = inspect.getsource(queue)
    assert '"SimpleStorage"' in source and "_TQ_CONTROLLER = " in source


@pytest.mark.parametrize(
    "more",
    [
        (),
        (
            "transfer_queue.enable=true",
            "actor_rollout_ref.rollout.full_determinism=true",
            "trainer.logger=[rl_insight]",
        ),
    ],
)
def test_ray_is_started_as_verl_would(more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    for name in ("VERL_FULL_DETERMINISM", "VLLM_BATCH_INVARIANT", "PYTHONHASHSEED", "VERL_RL_INSIGHT_ENABLE"):
        monkeypatch.setenv(name, "unset")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: calls.append(arguments))
    config = compose_config([*more, "run_dir=never-made", "fork_workers=false"])

    class Runner:
        @staticmethod
        def remote() -> Any:
            raise StopIteration

    with pytest.raises(StopIteration):
        run_ppo(OmegaConf.create(OmegaConf.to_container(config)), task_runner_class=Runner)
    start_ray(config)
    config.fork_workers = True
    start_ray(config)
    verls, ours, forking = calls
    for call in (ours, forking):
        assert call["runtime_env"]["env_vars"].pop(MICRO_BATCHES) == str(micro_batches(Path(config.run_dir)))
    assert ours == verls and ours["runtime_env"]["env_vars"]
    assert ours["runtime_env"]["py_executable"] is None
    ours["runtime_env"]["py_executable"] = INTERPRETER
    assert forking == ours


@pytest.mark.parametrize(("slow", "starts"), [(0, 1), (2, 3), (9, RAY_STARTS)])
def test_a_ray_that_is_slow_to_start_is_started_again(slow: int, starts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a failed start has left is ended."""
    assert SLOW_START in inspect.getsource(ray._private.node)
    began: list[subprocess.Popen[bytes]] = []

    def init(**_: Any) -> None:
        began.append(subprocess.Popen(["sleep", "1000"]))
        if len(began) <= slow:
            raise Exception(f"{SLOW_START}. This could happen because some of the raylet failed to startup")

    ended = list[Collection[int]]()

    def end_all(keep: Collection[int]) -> None:
        ended.append(keep)
        for process in began:
            process.kill()

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(task_runner, "end_processes", end_all)
    config, nodes = compose_config(["model=tiny", "run_dir=never-made"]), list[int]()

    class Server(ForkServer):
        def pids(self) -> list[int]:
            return [7]

        def for_a_node(self) -> dict[str, str]:
            nodes.append(len(nodes) + 1)
            return {"NODE": str(nodes[-1])}

    server = Server()
    with nullcontext() if slow < RAY_STARTS else pytest.raises(Exception, match=SLOW_START):
        start_ray(config, server)
    assert len(began) == len(nodes) == starts and os.environ["NODE"] == str(starts), "each node has a server of its own"
    alive = [process.poll() is None for process in began[-1:]]
    for process in (
        began[-1:] if len(ended) == starts - 1 else began
    ):  # a test that fails leaves none, and waits for none
        process.kill()
    assert ended == [[7]] * (starts - 1)
    assert [process.wait() for process in began[:-1]] == [-signal.SIGKILL] * (starts - 1)
    assert alive == [True]


def test_the_engines_state_is_where_liveness_looks_for_it() -> None:
    """`finished_in` takes a server without these for a healthy one that stands still; here another name in vLLM or verl
    fails."""
    code = (
        "from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer\n"
        "from vllm.v1.engine.async_llm import AsyncLLM\n"
        "assert isinstance(AsyncLLM.errored, property) and isinstance(AsyncLLM.dead_error, property)\n"
        "assert 'engine' in vLLMHttpServer.run_server.__code__.co_names\n"
        "assert 'output_processor' in AsyncLLM.__init__.__code__.co_names\n"
        "from vllm.v1.engine.detokenizer import IncrementalDetokenizer\n"
        "from vllm.v1.engine.output_processor import OutputProcessor\n"
        "from recipe.holderpo.fault_tolerance.liveness import tokens_of\n"
        "from vllm.v1.engine.output_processor import RequestState\n"
        "assert 'detokenizer' in RequestState.__init__.__code__.co_names\n"
        "class Request: detokenizer = IncrementalDetokenizer()\n"
        "class Engine: output_processor = OutputProcessor(None, log_stats=False)\n"
        "Engine.output_processor.request_states |= {'a': Request(), 'b': Request()}\n"
        "Request.detokenizer.token_ids += [5, 6, 7]\n"
        "assert tokens_of(Engine()) == 6 and tokens_of(None) == 0\n"
    )
    environment = os.environ | {"VERL_PLATFORM": "cpu"}  # before verl is imported: its vLLM is the CPU build
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
