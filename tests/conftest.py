"""For all tests: one thread per process, since those of several processes on the same few cores mostly wait for each other;
and no deadline for an example of a property, since a busy machine may take any time for it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("VERL_PLATFORM", None)  # a config gives its own, and refuses that of another device
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")

STACK = Path(__file__).parent / "stack"


@pytest.fixture(autouse=True)
def environment_restored() -> Iterator[None]:
    """A command gives its `env` to its process. Here the next test, of another config, runs in the same one."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that start the stack first, the longest before all: with several processes, the short ones fill the rest.
    (Naming them first on the command line does not do it: pytest 9 drops an argument that is below another.)"""
    items.sort(key=lambda item: (STACK not in item.path.parents, item.path.name != "test_stop_and_resume.py"))
