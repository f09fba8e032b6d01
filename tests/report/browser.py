"""A page in a real browser, without a window."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def browser() -> str:
    """A Chromium on this machine."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    return found


# Waits for the page, does what is to be done in it, and leaves the result where the test finds it.
DRIVER = """
const errors = [], result = {};
window.addEventListener("error", (event) => errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => errors.push(`refused: ${event.blockedURI}`));
const consoles = console.error; console.error = (...words) => { errors.push(words.join(" ")); consoles(...words); };
const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); };
const waiting = setInterval(() => {
  if (document.querySelector("main").hidden && !$("state").textContent.includes("could not")) return;
  clearInterval(waiting);
  try { DO } catch (error) { errors.push(String(error)); }
  setTimeout(() => {
    result.errors = errors; result.state = $("state").textContent; result.planted = window.planted;
    const found = document.createElement("pre"), text = unescape(encodeURIComponent(JSON.stringify(result)));
    found.id = "found"; found.textContent = btoa(text);
    document.body.append(found);
  }, 300);
}, 20);
"""


def dump(address: str, *flags: str) -> str:
    """The page as it is after half a minute of its own time, in HTML."""
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", *flags]
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, check=False)
    return done.stdout or done.stderr[-2000:]


def driven(text: str, do: str) -> str:
    """The page with a script that runs these statements when it is there, and leaves their `result` in it."""
    script = DRIVER.replace("DO", do)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{allowed}' ", 1)
    return text.replace("</body>", f"<script>{script}</script></body>")


def result_in(dumped: str) -> dict[str, Any]:
    """What `driven` has left."""
    found = re.search(r'<pre id="found">([^<]+)</pre>', dumped)
    assert found is not None, dumped[:2000]
    return dict(json.loads(base64.b64decode(found[1])))


def in_browser(text: str, folder: Path, do: str, *flags: str) -> dict[str, Any]:
    """`result`, after the statements were run in the page, with "errors", "state" and whether something planted ran."""
    file = folder / "driven.html"
    file.write_text(driven(text, do))
    return result_in(dump(f"file://{file}", *flags))
