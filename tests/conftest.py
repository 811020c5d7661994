"""Its presence puts this folder on the import path, so that tests may `from tiny import tiny_config`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from splitft.common.startup import import_libraries

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start: they share the cores
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # else what gRPC does in a fork shows in the output of commands


def pytest_configure(config: pytest.Config) -> None:
    """Import the large libraries where tests run, not in the process that hands them out to workers."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import_libraries()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bound the seconds of a test: one that waits for a party that never comes fails, and says where.

    The process ends with it, since nobody can end the threads that it waits for.
    """
    if config.pluginmanager.hasplugin("timeout"):  # not in `make test-matrix`
        for item in items:
            seconds = 3600 if item.get_closest_marker("slow") else 600
            item.add_marker(pytest.mark.timeout(seconds, method="thread"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums depend on the number of threads, and much is compared bit by bit: all tests compute with one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def no_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs in this process draw no pictures, which take a third of a small run; marked `pictures`, they do.

    Commands in processes of their own always draw.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("perplexity_picture", "partition_picture"):
            if not request.node.get_closest_marker("pictures"):
                patch.setattr(f"splitft.running.runner.{name}", lambda *_: None)
        yield


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """Put the umask back: a command that a test calls in its own process closes files to others for good."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
