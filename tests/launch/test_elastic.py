"""A run that goes on with the nodes that are left and takes in those that come: with drivers that are small scripts."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.signals import ExitStatus
from recipe.holderpo.launch import elastic
from recipe.holderpo.launch.settings import Node

DRIVER = """#!/bin/sh
echo "$*" >> {folder}/started
act=$(sed -n "$(wc -l < {folder}/started)p" {folder}/acts)
if [ "$act" = wait ]; then
    trap 'exit 75' TERM
    touch {folder}/waiting
    while [ ! -e {folder}/stop ]; do sleep 0.05; done
    rm {folder}/stop
    exit 75
fi
exit "$act"
"""
Acts = Callable[..., None]
Drive = Callable[..., int]


@pytest.fixture
def acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acts:
    """Say how each driver ends: with a status, or by SIGTERM."""
    driver = tmp_path / "driver"
    driver.write_text(DRIVER.format(folder=tmp_path))
    driver.chmod(0o700)
    monkeypatch.setattr(elastic.sys, "executable", str(driver))
    monkeypatch.setattr(elastic, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(elastic, "SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(elastic, "usable", lambda nodes, least, overrides: nodes if nodes >= least else 0)

    def write(*lines: object) -> None:
        (tmp_path / "acts").write_text("".join(f"{line}\n" for line in lines))

    return write


def started_on(folder: Path) -> list[int]:
    """Nodes of each driver that was started."""
    lines = (folder / "started").read_text().splitlines()
    assert all(line.startswith("-m recipe.holderpo.main a=1 ") and line.endswith(" b=2") for line in lines)
    return [int(word.removeprefix("trainer.nnodes=")) for line in lines for word in line.split() if "nnodes" in word]


def counts(folder: Path, *by_start: int) -> Callable[[], int]:
    """The number of nodes that are there before the first driver, once it has started, once the second has, ..."""

    def count() -> int:
        file = folder / "started"
        started = len(file.read_text().splitlines()) if file.exists() else 0
        return by_start[min(started, len(by_start) - 1)]

    return count


@pytest.fixture
def drive(acts: Acts, tmp_path: Path) -> Iterator[Callable[..., int]]:
    before = signal.getsignal(signal.SIGTERM)

    def start(count: Callable[[], int], nodes: int = 2, least: int = 1, wait_s: float = 30.0) -> int:
        node = Node(nodes=nodes, min_nodes=least, wait_s=wait_s)
        return elastic.drive(node, count, ["a=1"], ["b=2"], {"PATH": "/usr/bin:/bin"}, tmp_path)

    yield start
    signal.signal(signal.SIGTERM, before)


def test_without_a_loss_it_is_one_driver(acts: Acts, drive: Drive, tmp_path: Path) -> None:
    acts(0)
    assert drive(counts(tmp_path, 2)) == 0 and started_on(tmp_path) == [2]


def test_a_lost_node_is_gone_without(acts: Acts, drive: Drive, tmp_path: Path) -> None:
    acts(1, 0)
    assert drive(counts(tmp_path, 3, 2), nodes=3) == 0 and started_on(tmp_path) == [3, 2]


def test_an_error_on_nodes_that_are_all_there_is_the_runs(acts: Acts, drive: Drive, tmp_path: Path) -> None:
    acts(1)
    assert drive(counts(tmp_path, 2)) == 1 and started_on(tmp_path) == [2]


@pytest.mark.parametrize("status", [ExitStatus.REFUSED, ExitStatus.GUARD, ExitStatus.STOPPED])
def test_other_ends_are_ends(acts: Acts, drive: Drive, tmp_path: Path, status: ExitStatus) -> None:
    acts(int(status))
    assert drive(counts(tmp_path, 2, 1)) == status and started_on(tmp_path) == [2]


def test_a_node_that_comes_is_taken_in(acts: Acts, drive: Drive, tmp_path: Path) -> None:
    acts("wait", 0)
    waiting = tmp_path / "waiting"
    assert drive(lambda: 2 if waiting.exists() else 1) == 0 and started_on(tmp_path) == [1, 2]


def test_sigterm_of_the_users_is_the_end_also_while_a_node_comes(
    acts: Acts, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts("wait", 0)
    waiting, before = tmp_path / "waiting", signal.getsignal(signal.SIGTERM)

    def usable(nodes: int, least: int, overrides: object) -> int:
        if waiting.exists():
            while signal.getsignal(signal.SIGTERM) is before:  # the launcher does not listen yet
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return nodes if nodes >= least else 0

    monkeypatch.setattr(elastic, "usable", usable)
    assert drive(lambda: 2 if waiting.exists() else 1) == ExitStatus.STOPPED and started_on(tmp_path) == [1]


def test_nodes_that_the_batches_leave_out_are_counted(acts: Acts, drive: Drive, tmp_path: Path) -> None:
    """Three are there, of which two are used; one is lost, and two are left."""
    acts(1, 0)
    count = counts(tmp_path, 3, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elastic, "usable", lambda nodes, least, overrides: 2 if nodes >= 2 >= least else 0)
        assert drive(count, nodes=3) == 0
    assert started_on(tmp_path) == [2, 2]


def test_a_cluster_that_does_not_answer_for_a_moment_ends_nothing(acts: Acts, drive: Drive, tmp_path: Path) -> None:
    acts("wait", 0)
    waiting, failed = tmp_path / "waiting", list[bool]()

    def count() -> int:
        if waiting.exists() and not failed:
            failed.append(True)
            raise ConnectionError("the GCS")
        return 2 if waiting.exists() else 1

    assert drive(count) == 0 and started_on(tmp_path) == [1, 2]


def test_a_node_that_could_not_be_used_disturbs_nobody(
    acts: Acts, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts("wait", 0)
    asked: list[tuple[int, int]] = []

    def usable(nodes: int, least: int, overrides: object) -> int:
        asked.append((nodes, least))
        return nodes if nodes % 2 == 0 and nodes >= least else 0

    monkeypatch.setattr(elastic, "usable", usable)
    coming: Iterator[int] = iter([2, *[3] * 20])
    waiting = tmp_path / "waiting"
    assert drive(lambda: next(coming, 4) if waiting.exists() else 2, nodes=4) == 0
    assert started_on(tmp_path) == [2, 4] and (3, 3) in asked and asked.count((3, 3)) == 1


def test_too_few_nodes_are_waited_for_and_then_an_error(acts: Acts, drive: Drive, tmp_path: Path) -> None:
    acts(0)
    with pytest.raises(ConfigError, match="MIN_NODES is 2; after 1 s 1 nodes are there"):
        drive(lambda: 1, nodes=3, least=2, wait_s=1.0)


def test_numbers_that_do_not_divide_the_batches_are_named(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("train", "eval_math500", "eval_amc", "eval_aime24"):
        (tmp_path / f"{name}.parquet").touch()
    given = ["hardware=gpu_nx8", "task=math", "model=qwen2.5_math_7b", "run_dir=never-made", f"data_dir={tmp_path}"]
    assert elastic.usable(4, 1, given) == 4
    assert elastic.usable(3, 1, given) == 2
    said = capfd.readouterr().err
    assert said.startswith(
        "3 nodes cannot be used: trainer.nnodes x n_gpus_per_node gives 24 data-parallel ranks; allowed"
    )
    assert elastic.usable(3, 3, given) == 0
