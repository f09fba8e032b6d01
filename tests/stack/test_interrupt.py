"""One run, looked at from outside while it trains, then interrupted: who can reach it, what it tells, what it leaves."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from fault_injection.watched_run import Run

from recipe.holderpo.fault_tolerance.checkpoint import MANIFEST

pytestmark = pytest.mark.stack

LOOPBACK = re.compile(r"127\.|::1$")
WILDCARD = ("0.0.0.0", "::")


@dataclass
class Looked:
    """What was seen of a run that was interrupted in its third step or later."""

    run: Run
    planted: dict[str, str]
    temporary_texts: dict[Path, bytes]
    """Ray's session and whatever else was in the run's temporary folder while it lived."""
    listening: list[tuple[str, int, str]]
    """Address, port and process of every socket that was listened on."""
    strangers: dict[str, "subprocess.CompletedProcess[str]"]
    seconds: float


@pytest.fixture(scope="module")
def looked(small_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looked]:
    folder = tmp_path_factory.mktemp("interrupted")
    overrides = [
        *small_overrides, "holder.steps=40", "trainer.total_training_steps=40", "trainer.save_freq=2", "logger=wandb",
    ]  # fmt: skip
    planted = {
        "WANDB_API_KEY": secrets.token_hex(20),
        "HF_TOKEN": "hf_" + secrets.token_hex(17),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    run = Run(folder, overrides)
    run.start(planted | {"WANDB_MODE": "offline"})
    saved = run.run_dir / "checkpoints" / "global_step_2" / MANIFEST
    assert run.wait_until(saved.exists), run.said
    (temporary,) = set(Path("/tmp").glob("holderpo-*")) - run.there
    texts = {path: path.read_bytes() for path in temporary.rglob("*") if path.is_file()}
    assert temporary.stat().st_mode & 0o777 == 0o700
    listening = [
        (connection.laddr.ip, connection.laddr.port, " ".join(process.cmdline()))
        for process in run.below("")
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    gcs_port = next(port for _, port, command in listening if "gcs_server" in command)
    own_address = next(ip for ip, _, command in listening if "vLLMHttpServer" in command and ip not in WILDCARD)
    tokens = {"its token": planted["RAY_AUTH_TOKEN"], "another": "f" * 64}
    strangers = {
        name: subprocess.run(
            [str(Path(sys.executable).with_name("ray")), "status", f"--address={own_address}:{gcs_port}"],
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            capture_output=True, text=True, timeout=60,
        )
        for name, token in tokens.items()
    }  # fmt: skip
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    run.process.wait(timeout=60)
    yield Looked(run, planted, texts, listening, strangers, time.monotonic() - interrupted)


def test_ctrl_c(looked: Looked) -> None:
    assert looked.run.process is not None
    assert looked.run.process.returncode == 130 and looked.seconds < 15
    assert "to resume from the last checkpoint: python -m recipe.holderpo.main" in looked.run.said
    assert looked.run.left_over() == []


def test_no_secret_is_in_anything_that_it_wrote(looked: Looked) -> None:
    written = {path: path.read_bytes() for path in looked.run.folder.rglob("*") if path.is_file()}
    assert any(path.suffix == ".wandb" for path in written) and any(path.name == MANIFEST for path in written)
    assert any("raylet" in path.name for path in looked.temporary_texts)
    for name, secret in looked.planted.items():
        found = [path for path, text in (written | looked.temporary_texts).items() if secret.encode() in text]
        assert found == [], name


def test_strangers_are_refused(looked: Looked) -> None:
    """Ray's own ports, which are open on all interfaces, ask for the token; the others are for this machine alone."""
    assert looked.strangers["its token"].returncode == 0, looked.strangers["its token"].stderr
    refused = looked.strangers["another"]
    assert refused.returncode != 0 and "token" in (refused.stdout + refused.stderr).lower()
    outside = [place for place in looked.listening if place[0] not in WILDCARD and not LOOPBACK.match(place[0])]
    assert outside == []
    engines = [place for place in looked.listening if "vLLM" in place[2] or "VLLM" in place[2]]
    assert engines != [] and all(LOOPBACK.match(ip) or "::" in ip for ip, _, _ in engines), engines
