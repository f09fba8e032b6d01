"""What the trainer watches."""

from types import SimpleNamespace

import pytest
import transfer_queue.interface as tq_interface

from recipe.holderpo.training.trainer import HolderTrainerSeparateAsync, HolderTrainerSync
from recipe.holderpo.training.verl_internals import processes_of


def manager(name: str) -> SimpleNamespace:
    replicas = [SimpleNamespace(servers=[f"{name} server {i} on node {node}" for node in (0, 1)]) for i in (0, 1)]
    return SimpleNamespace(get_replicas=lambda: replicas, global_load_balancer=f"{name} balancer")


OWN = {"own server 0 on node 0", "own server 0 on node 1", "own server 1 on node 0", "own server 1 on node 1"}


def test_it_watches_all_that_a_sample_or_a_weight_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tq_interface, "_TQ_CONTROLLER", "queue")
    monkeypatch.setattr(tq_interface, "_TQ_STORAGE", {"SimpleStorage": {"0": "storage 0", "1": "storage 1"}})
    trainer = object.__new__(HolderTrainerSync)
    trainer.llm_server_manager = manager("own")
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_workers=["reward"])
    before = OWN | {"own balancer", "reward", "queue", "storage 0", "storage 1"}
    assert set(processes_of(trainer)) == before
    trainer.agent_loop_manager = SimpleNamespace(agent_loop_workers=["agent loop"])
    assert set(processes_of(trainer)) == before | {"agent loop"}
    monkeypatch.setattr(tq_interface, "_TQ_STORAGE", None)
    assert set(processes_of(trainer)) == OWN | {"own balancer", "reward", "agent loop", "queue"}


def test_servers_apart_from_the_trainer_are_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tq_interface, "_TQ_CONTROLLER", "queue")
    trainer = object.__new__(HolderTrainerSeparateAsync)
    trainer.standalone_server_manager = manager("apart")
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_workers=[])
    assert {"apart server 0 on node 0", "apart server 1 on node 1", "apart balancer"} < set(processes_of(trainer))
