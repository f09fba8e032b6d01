"""The page that is served: to whom, what, and that it follows a run."""

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from report.browser import driven, dump, result_in
from report.made_run import Maker

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.report import __main__ as report
from recipe.holderpo.report.watch import Watch, serve, server


@contextmanager
def served(watch: Watch) -> Iterator[str]:
    made, address = server(watch)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def get(address: str) -> str:
    with urllib.request.urlopen(address) as answer:
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Referrer-Policy"] == "no-referrer"
        return str(answer.read().decode())


def test_only_who_has_the_address_sees_it_and_on_this_machine_alone(
    make_run: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Watch([make_run("a")])) as address:
        assert address.startswith("http://127.0.0.1:")
        root, secret, _ = address.rsplit("/", 2)
        assert len(secret) == 32 and "HölderPO: runs" in get(address)
        for wrong in (
            "/",
            f"/{secret[:-1]}/",
            f"/{secret}/x",
            f"/{secret}",
            f"/{secret}/../{secret}/metrics.jsonl",
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(root + wrong)
            assert refused.value.code == 404
        with socket.create_connection(("127.0.0.1", int(root.rsplit(":", 1)[1]))) as raw:
            raw.sendall(b"GET /\xe4 HTTP/1.0\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.0 404")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(address, method="POST", data=b""))
    with served(Watch([make_run("b")])) as another:
        assert another.rsplit("/", 2)[1] != secret
    assert capsys.readouterr() == ("", ""), "or the secret is in a log"


def test_a_page_is_made_again_when_a_run_has_gone_on(make_run: Maker) -> None:
    folder = make_run("a")
    watch = Watch([folder])
    first, version = watch.page(), watch.version()
    assert watch.page() is first and version in (watch.version(),)
    with (folder / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 3, "time": 1050.0}\n')
    assert watch.version() != version and watch.page() is not first


def test_a_run_without_a_record_is_waited_for(make_run: Maker, tmp_path: Path) -> None:
    (tmp_path / "<b>new").mkdir()
    watch = Watch([tmp_path / "<b>new"])
    assert "&lt;b&gt;new has no metrics.jsonl" in watch.page() and 'http-equiv="refresh"' in watch.page()
    make_run("made")
    (tmp_path / "made" / "metrics.jsonl").rename(tmp_path / "<b>new" / "metrics.jsonl")
    assert "HölderPO: runs" in watch.page()


def test_what_goes_wrong_while_a_page_is_made_is_said(make_run: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the reader asks again."""
    folder = make_run("a")
    watch = Watch([folder])
    monkeypatch.setattr(watch, "page", lambda: 1 / 0)
    with served(watch) as address:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address)
        assert refused.value.code == 503 and b"division by zero" in refused.value.read()
        get(address + "version")
    (folder / "tokens").mkdir()
    (folder / "tokens" / "gone.jsonl").symlink_to("nowhere")  # as of a file that is renamed meanwhile
    assert watch.version()


def test_a_browser_follows_the_run_and_keeps_what_was_chosen(make_run: Maker) -> None:
    folder, asked = make_run("a"), list[str]()

    class Growing(Watch):
        """When the page asks for the first time whether there is another, the run has gone on."""

        def version(self) -> str:
            if asked == ["for the page"]:
                with (folder / "metrics.jsonl").open("a") as lines:
                    lines.write('{"step": 3, "time": 1050.0, "holder/p": 0.0, "holder/log_ratio_std": 0.5}\n')
            asked.append("for the page")
            return super().version()

        def page(self) -> str:
            do = """
                if (!sessionStorage.getItem("been here")) { set("metric", "actor/grad_norm"); set("smoothing", "0.5"); }
                sessionStorage.setItem("been here", "yes");
                result.chosen = [$("metric").value, $("smoothed").textContent]; result.effect = $("effect").textContent;
            """
            return driven(super().page(), do)

    with served(Growing([folder])) as address:
        seen = result_in(dump(address))
    assert seen["errors"] == [] and seen["effect"].endswith("in 0 of 4 steps.")
    assert seen["chosen"] == ["actor/grad_norm", "moving average, 0.5"]
    assert len(asked) > 4, "it asks on"


@pytest.mark.parametrize("at", ["nowhere", "127.0.0.1:", "127.0.0.1:x"])
def test_a_wrong_place(at: str) -> None:
    with pytest.raises(ConfigError, match=r"--at is .*; allowed is HOST:PORT"):
        report.place(at)
    with pytest.raises(ConfigError, match=r"--at is '127\.0\.0\.1:99999999', where nothing can be served"):
        serve([], "127.0.0.1", 99999999)
