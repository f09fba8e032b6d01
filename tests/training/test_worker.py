"""p's last stretch (batch -> loss) and the reduction of metrics over micro-batches, ranks and mini-batches."""

import hashlib
import json
import math
import random
import statistics
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric, reduce_metrics

from holderpo_core import REDUCTION
from recipe.holderpo.training.worker import (
    P_KEY,
    HolderWorkerMixin,
    finish_metrics,
    finish_update_measures,
    loss_with_step_p,
    split_metrics,
    with_update_measures,
)


def _verl_metrics(values: dict[str, float]) -> dict[str, Metric]:
    """As verl's ppo_loss hands a policy loss's metrics on: every one a Metric(MEAN)."""
    return Metric.from_dict({f"holder/{name}": value for name, value in values.items()}, AggregationType.MEAN)


@given(seed=st.integers(0, 10**6), ranks=st.integers(1, 3))
def test_reduction_is_that_of_the_undivided_batch(seed: int, ranks: int) -> None:
    """Random sequences, dealt unevenly over ranks and micro-batches, give the metrics of all of them together."""
    rng = random.Random(seed)
    kinds = {name: how for name, how in REDUCTION.items() if name not in ("sequences", "tokens")}
    micro_batches, everything = [], []
    for _ in range(ranks * 3):
        sequences = [
            {"tokens": rng.randint(1, 9), **{name: rng.uniform(-2, 2) for name in kinds}}
            for _ in range(rng.randint(1, 4))
        ]
        everything += sequences
        micro_batches.append(_verl_metrics(_summary(sequences, kinds)))
    split = [split_metrics(metrics) for metrics in micro_batches]
    # verl: micro-batches are appended per rank, then aggregated over ranks, then over mini-batches by `reduce_metrics`.
    step = {}
    for key in split[0]:
        per_rank = [Metric(split[0][key].aggregation) for _ in range(ranks)]
        for i, metrics in enumerate(split):
            per_rank[i % ranks].append(metrics[key])
        step[key.replace("holder/", "actor/holder/")] = [Metric.aggregate_dp(per_rank)]
    finished = finish_metrics(reduce_metrics(step))
    expected = _summary(everything, kinds)
    for name in kinds:
        assert finished[f"holder/{name}"] == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name
    assert not any(key.startswith("actor/holder/") for key in finished)


def _summary(sequences: list[dict[str, float]], kinds: Mapping[str, str]) -> dict[str, float]:
    """The metrics of some sequences, computed from their definition."""
    tokens = sum(s["tokens"] for s in sequences)
    out: dict[str, float] = {"sequences": float(len(sequences)), "tokens": float(tokens)}
    for name, how in kinds.items():
        values = [s[name] for s in sequences]
        if how == "sequence_mean":
            out[name] = sum(values) / len(values)
        elif how == "token_mean":
            out[name] = sum(s[name] * s["tokens"] for s in sequences) / tokens
        else:
            out[name] = {"max": max, "min": min}[how](values)
    return out


def _loss_fn(seen: list[float]) -> partial:
    config = SimpleNamespace(policy_loss=SimpleNamespace(p=None))

    def verl_loss(config, model_output, data, dp_group=None):
        seen.append(config.policy_loss.p)
        zeros = dict.fromkeys(REDUCTION, 0.0)
        return torch.zeros(()), _verl_metrics(zeros)

    return partial(verl_loss, config=config)


def test_each_batch_brings_its_own_p() -> None:
    seen: list[float] = []
    loss_fn = _loss_fn(seen)
    for p in (2.0, 0.0, -2.0):
        loss_with_step_p(None, TensorDict({P_KEY: p}), loss_fn=loss_fn)
    assert seen == [2.0, 0.0, -2.0]


def test_a_batch_without_p_is_an_error_even_after_one_with_it() -> None:
    seen: list[float] = []
    loss_fn = _loss_fn(seen)
    loss_with_step_p(None, TensorDict({P_KEY: 2.0}), loss_fn=loss_fn)
    with pytest.raises(KeyError, match="did not arrive"):
        loss_with_step_p(None, TensorDict({}), loss_fn=loss_fn)
    assert seen == [2.0]


def test_what_is_measured_of_a_steps_updates() -> None:
    """By way of the output of verl's update, and its means over updates: two steps of three updates each."""
    norms = [0.5, 2.0, 0.25, 1.0, 1.0, 4.0]
    extremes = [(0.1, -0.3), (5.0, -5.0), (7.0, -7.0), (0.2, -0.1), (6.0, -6.0), (8.0, -8.0)]
    updates = iter(zip(norms, extremes, strict=True))

    def train_batch(_: object) -> TensorDict:
        norm, (largest, smallest) = next(updates)
        metrics = {
            "grad_norm": norm,
            "holder/log_ratio_max": [Metric("max", largest)],  # of each rank
            "holder/log_ratio_min": [Metric("min", smallest)],
            "holder/log_ratio_std": [Metric("sum", 6 * norm)],  # over its sequences
            "holder/sequences": [Metric("sum", 3.0)],
        }
        return tu.get_tensordict(tensor_dict={}, non_tensor_dict={"metrics": metrics})

    update = with_update_measures(train_batch)
    for step in range(2):
        step_metrics: dict[str, list[object]] = {}
        for index in range(3):
            data = tu.get_tensordict(tensor_dict={}, non_tensor_dict={"update_lr_scheduler": index == 2})
            for key, value in tu.get(update(data), "metrics").items():
                reduced = Metric.aggregate_dp(value) if isinstance(value, list) else value  # as verl's worker does
                step_metrics.setdefault(f"actor/{key}", []).append(reduced)
        metrics = reduce_metrics(step_metrics)
        finish_update_measures(metrics)
        of_step = norms[3 * step : 3 * step + 3]
        assert metrics["actor/grad_norm_std"] == pytest.approx(statistics.pstdev(of_step))
        assert metrics["holder/first_log_ratio_max"] == pytest.approx((0.3, 0.2)[step])
        assert metrics["holder/last_log_ratio_std"] == pytest.approx(2 * of_step[-1])
        assert not [key for key in metrics if "first/" in key or "last/" in key or "square" in key]


def test_a_rank_without_the_metrics_is_left_alone_and_nan_stays_nan() -> None:
    data = tu.get_tensordict(tensor_dict={}, non_tensor_dict={"update_lr_scheduler": True})
    assert with_update_measures(lambda _: None)(data) is None
    metrics = {"actor/grad_norm": math.nan, "actor/grad_norm_square": math.nan}
    metrics |= {"actor/first/log_ratio_max": 0.0, "actor/first/log_ratio_min": 0.0}
    metrics |= {"actor/last/log_ratio_std": 0.0, "actor/last/sequences": 0.0}
    finish_update_measures(metrics)
    assert math.isnan(metrics["actor/grad_norm_std"])


def _rank_that_saves(rank: int, address: str, fails: bool, out: str) -> None:
    """verl's order of events in a save, of which rank 1's writing fails: mkdir, meet, write, meet; then meet once more."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=30))

    class Manager:
        def save_checkpoint(self, local_path: str) -> None:
            dist.barrier()
            if fails and rank == 1:
                raise RuntimeError("PytorchStreamWriter failed\nwriting file")
            Path(local_path, f"model_world_size_2_rank_{rank}.pt").write_bytes(bytes(range(rank, 200)))
            dist.barrier()

        def load_checkpoint(self, local_path: str) -> None:
            raise AssertionError("nothing is loaded here")

    class Worker:
        config = SimpleNamespace(
            actor=SimpleNamespace(
                policy_loss=SimpleNamespace(loss_mode="vanilla", p=None), checkpoint=SimpleNamespace(async_save=True)
            )
        )

        def init_model(self) -> None:
            engine = SimpleNamespace(checkpoint_manager=Manager())
            self.actor = SimpleNamespace(engine=engine, set_loss_fn=lambda loss_fn: None, train_batch=None)
            self.loss_fn: Any = None

        def save_checkpoint(self) -> None:
            self.actor.engine.checkpoint_manager.save_checkpoint(out)
            dist.barrier()

    class Mended(HolderWorkerMixin, Worker):
        pass

    worker = Mended()
    worker.init_model()
    for _ in range(2):  # and the next save finds the ranks in step
        worker.save_checkpoint()
    while (part := worker.saved_part()) is None:
        pass
    Path(out, str(rank)).write_text(json.dumps([part.error, part.files]))
    dist.destroy_process_group()


@pytest.mark.parametrize("fails", [True, False])
def test_a_rank_that_cannot_save_does_not_keep_the_others_waiting(fails: bool, tmp_path: Path) -> None:
    arguments = (f"file://{tmp_path}/store", fails, str(tmp_path))
    torch.multiprocessing.start_processes(_rank_that_saves, arguments, nprocs=2, start_method="fork")
    files = [tmp_path / f"model_world_size_2_rank_{rank}.pt" for rank in range(2)]
    written = [
        {str(file): {"bytes": 200 - rank, "sha256": hashlib.sha256(bytes(range(rank, 200))).hexdigest()}}
        for rank, file in enumerate(files)
    ]
    said = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    failed = ["RuntimeError: PytorchStreamWriter failed writing file", {}]
    assert said == [[None, written[0]], failed if fails else [None, written[1]]]
