"""What the environment says about a launch, and the authors' environment variables."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.launch import cluster
from recipe.holderpo.launch.__main__ import checked, join, launch, resources
from recipe.holderpo.launch.settings import Node, first_slurm_host, legacy_overrides, read_node


def test_one_node_is_the_default() -> None:
    assert read_node({}) == Node() and read_node({"SLURM_NNODES": "1"}) == Node()


def test_several_nodes_by_our_variables() -> None:
    shared = {"NNODES": "4", "HEAD_ADDR": "10.0.0.1", "RAY_PORT": "7000", "NODE_WAIT_S": "30"}
    head = read_node(shared | {"NODE_RANK": "0"})
    assert head == Node(nodes=4, rank=0, head="10.0.0.1", address="10.0.0.1", port=7000, wait_s=30.0)
    assert read_node(shared | {"NODE_RANK": "3"}) == Node(4, 3, "10.0.0.1", None, 7000, 30.0)


def test_several_nodes_by_slurms_variables() -> None:
    slurm = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[03-04]"}
    node = read_node(slurm)
    assert (node.nodes, node.rank, node.head, node.address) == (2, 1, "gpu03", None)
    assert read_node(slurm | {"NNODES": "1"}) == Node()  # ours come first


HEAD = {"NNODES": "2", "NODE_RANK": "0", "HEAD_ADDR": "127.0.0.1"}
BAD = {
    "NNODES": ({"NNODES": "two"}, "NNODES is 'two'; allowed is a whole number from 1"),
    "no rank": ({"NNODES": "2", "HEAD_ADDR": "a"}, "NODE_RANK is not set; allowed with NNODES=2 is 0 (the head) to 1"),
    "rank": ({"NNODES": "2", "HEAD_ADDR": "a", "NODE_RANK": "2"}, "NODE_RANK is '2'; allowed is a whole number from 0 to 1"),
    "no head": ({"NNODES": "2", "NODE_RANK": "1"}, "HEAD_ADDR is not set"),
    "port": ({"RAY_PORT": "70000"}, "RAY_PORT is '70000'"),
    "a digit for str.isdigit, not for int": ({"NNODES": "²"}, "NNODES is '²'; allowed is a whole number from 1"),
    "a digit for int": ({"NNODES": "٢"}, "NNODES is '٢'; allowed is a whole number from 1"),
    "more digits than int takes": ({"RAY_PORT": "9" * 5000}, "...'; allowed is a whole number from 1 to 65535"),
    "rank of one": ({"NNODES": "1", "NODE_RANK": "1"}, "NODE_RANK is '1'; allowed is 0"),
    "Slurm's number": ({"SLURM_NNODES": "two", "SLURM_NODEID": "0"}, "SLURM_NNODES is 'two'; allowed is a whole number"),
    "no name": (HEAD | {"HEAD_ADDR": "a..b"}, "HEAD_ADDR is 'a..b', which cannot be looked up ("),
    "long name": (HEAD | {"HEAD_ADDR": "a" * 300}, "HEAD_ADDR is 'aaa"),
    "an address and a port": (HEAD | {"HEAD_ADDR": "127.0.0.1:1"}, "HEAD_ADDR is '127.0.0.1:1', which cannot be looked up ("),
    "any address": (HEAD | {"HEAD_ADDR": "0"}, "HEAD_ADDR is '0'; allowed is the address at which"),
    "own name": (HEAD | {"NODE_ADDR": "x y"}, "NODE_ADDR is 'x y', which cannot be looked up ("),
    "a head, and no number": ({"HEAD_ADDR": "10.0.0.1"}, "NNODES is not set; allowed with HEAD_ADDR=10.0.0.1 is"),
    "half of Slurm's": ({"SLURM_NODEID": "1"}, "NNODES is not set; allowed with SLURM_NODEID=1 is the number of nodes"),
    "half a bracket": ({"SLURM_NNODES": "2", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "a[1"}, "NODELIST is 'a[1'"),
    "no node list": ({"SLURM_NNODES": "2", "SLURM_NODEID": "1"}, "HEAD_ADDR is not set, and SLURM_JOB_NODELIST is ''"),
    "a name for oneself": (HEAD | {"HEAD_ADDR": "localhost"}, "HEAD_ADDR is 'localhost', which is 127.0.0.1 on this machine"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_variable_is_named(case: str) -> None:
    environment, message = BAD[case]
    with pytest.raises(ConfigError) as caught:
        read_node(environment)
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_empty_variable_is_not_set() -> None:
    assert read_node(dict.fromkeys(("NNODES", "NODE_RANK", "HEAD_ADDR", "RAY_PORT", "SLURM_NNODES"), "")) == Node()
    slurm = {
        "NNODES": "",
        "HEAD_ADDR": "",
        "SLURM_NNODES": "2",
        "SLURM_NODEID": "1",
        "SLURM_JOB_NODELIST": "gpu03,gpu04",
    }
    assert read_node(slurm) == Node(2, 1, "gpu03")


@pytest.mark.parametrize(
    ("nodes", "first"),  # as scontrol show hostnames says
    [
        ("gpu03", "gpu03"),
        ("gpu[03-06,9]", "gpu03"),
        ("gpu[9,03-06]", "gpu9"),
        ("rack[1-2]-node[07-09]-ib,login", "rack1-node07-ib"),
        ("a.example.org,b[1-3]", "a.example.org"),
        ("n-1,n-2", "n-1"),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_slurm_host(nodes) == first


def test_a_node_whose_own_name_is_a_loopback_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostbyname", {"node1": "127.0.1.1", "10.0.0.1": "10.0.0.1"}.__getitem__)
    with pytest.raises(ConfigError, match=r"HEAD_ADDR is 'node1', which is 127\.0\.1\.1 on this machine"):
        read_node({"NNODES": "2", "NODE_RANK": "0", "HEAD_ADDR": "node1"})
    own = read_node({"NNODES": "2", "NODE_RANK": "0", "HEAD_ADDR": "node1", "NODE_ADDR": "10.0.0.1"})
    assert own.address == "10.0.0.1"


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Node(2, 1, "no.such.host.invalid"), "HEAD_ADDR is 'no.such.host.invalid', which cannot be looked up"),
        (Node(2, 1, "127.0.0.1", address="192.0.2.1"), "NODE_ADDR is 192.0.2.1, which is no address of this machine"),
    ],
)
def test_a_node_that_could_never_join_does_not_wait(node: Node, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        join(node, [])


def test_two_numbers_of_nodes_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HEAD.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"trainer\.nnodes=3: NNODES is 2; allowed is that"):
        launch(["trainer.nnodes=3"])


def test_the_launcher_leaves_what_is_slow_to_its_driver() -> None:
    """So that the driver's own checks are over within seconds of the command."""
    code = "import sys, recipe.holderpo.launch.__main__; print({'torch', 'verl', 'ray'} & {*sys.modules})"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_the_authors_variables_become_overrides() -> None:
    assert legacy_overrides({}) == [] and legacy_overrides({"HOLDER_P": ""}) == []
    annealed = {
        "HOLDER_P_SCHEDULE": "linear_desc",
        "HOLDER_P_MIN": "-2",
        "HOLDER_P_MAX": "2",
        "HOLDER_P_SCHEDULE_STEPS": "500",
    }
    assert legacy_overrides(annealed) == [
        "holder.steps=500",
        "holder.schedule=linear",
        "holder.p_start=2",
        "holder.p_end=-2",
    ]
    rising = legacy_overrides(annealed | {"HOLDER_P_SCHEDULE": "square_asc", "HOLDER_P_POWER": "2", "CLIPRANGE": "0.1"})
    assert rising == [
        "holder.steps=500", "holder.power=2", "actor_rollout_ref.actor.clip_ratio_low=0.1",
        "actor_rollout_ref.actor.clip_ratio_high=0.1", "holder.schedule=power", "holder.p_start=-2", "holder.p_end=2",
    ]  # fmt: skip
    for ignored in ({"HOLDER_P": "1", "HOLDER_P_SCHEDULE": "linear"}, {"HOLDER_P": "1", "HOLDER_P_MAX": "2"}):
        with pytest.raises(ConfigError, match="HOLDER_P is '1'; allowed"):
            legacy_overrides(ignored)
    assert legacy_overrides({"HOLDER_P": "0.5"}) == [
        "holder.schedule=constant",
        "holder.p_end=null",
        "holder.p_start=0.5",
    ]
    with pytest.raises(ConfigError, match="HOLDER_P_SCHEDULE is 'zigzag'"):
        legacy_overrides({"HOLDER_P_SCHEDULE": "zigzag"})


@pytest.mark.parametrize(
    "legacy", [{"HOLDER_P": "0.5"}, {"HOLDER_P_SCHEDULE": "cube_asc", "HOLDER_P_MIN": "-1", "HOLDER_P_MAX": "1"}]
)
def test_what_the_legacy_give_passes_the_checks(legacy: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = checked([*legacy_overrides(legacy), "run_dir=never-made"])
    assert config.holder.p_start == float(legacy.get("HOLDER_P", -1))
    assert resources(config) == ["--num-gpus=1", "--num-cpus=16"]


def test_a_wrong_override_is_one_line() -> None:
    for override in ("holder.p_begin=1", "holder.schedule=zigzag", "hardware=tpu"):
        with pytest.raises(ConfigError) as caught:
            checked([override])
        assert "\n" not in str(caught.value) and str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_file_is_made_for_its_owner_alone(mode: int, tmp_path: Path) -> None:
    environment = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "keys" / "token")}
    with pytest.raises(ConfigError, match="does not exist; allowed is a copy of the head's token file"):
        cluster.ensure_token(environment, make=False)
    previous = os.umask(0)
    try:
        cluster.ensure_token(environment, make=True)
    finally:
        os.umask(previous)
    file = tmp_path / "keys" / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    token = file.read_text()
    assert len(token) >= 32 and environment["RAY_AUTH_MODE"] == "token"
    cluster.ensure_token(environment, make=True)
    assert file.read_text() == token
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:o}; allowed is 600"):
        cluster.ensure_token(environment, make=True)


def test_a_token_file_that_is_none_or_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, said in (("", "allowed is a file with a token"), ("file/t", "cannot be made: File exists")):
        with pytest.raises(ConfigError, match=f"RAY_AUTH_TOKEN_PATH names {tmp_path / name}.* {said}"):
            cluster.ensure_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / name)}, make=True)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"RAY_PORT is {port}; it cannot be used on 127.0.0.1: Address already in use"
        ):
            cluster.check_port("127.0.0.1", port)
    cluster.check_port("127.0.0.1", port)


def test_the_address_of_another_machine_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"HEAD_ADDR or NODE_ADDR is 192\.0\.2\.1, which is no address of this machine"
    ):
        cluster.check_port("192.0.2.1", 6379)  # of RFC 5737's, which nobody has


def test_a_head_that_never_answers_is_named() -> None:
    with pytest.raises(ConfigError, match=r"HEAD_ADDR is 127.0.0.1: nothing answers on port 1 after 1 s"):
        cluster.wait_for_head(Node(nodes=2, rank=1, port=1, wait_s=1.0))


def test_stopping_ends_the_children_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "STOP_SECONDS", 3.0)  # what a child that does not hear of SIGTERM is given
    code = "import subprocess, time; subprocess.Popen(['sleep', '600']); print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    assert len(family) == 2
    cluster.stop(process)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)


def test_the_reason_for_a_failed_start_is_the_line_about_the_token_or_the_last() -> None:
    assert cluster.reason("a\nthe authentication Token is invalid\nb\n") == "the authentication Token is invalid"
    assert cluster.reason("a\nb\n\n") == "b" and cluster.reason("") == "no word"
