"""What every test shares: markers that people opt into, and threads that do not get in each other's way."""

import os

import pytest

# Two pytest workers on two cores: one thread each, and no core burnt by threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs the network says so by its marker


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests that take minutes")
    parser.addoption("--run-network", action="store_true", help="also run tests that download something")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--run-network"):
        os.environ["HF_HUB_OFFLINE"] = "0"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ("slow", "network"):
            if marker in item.keywords and not config.getoption(f"--run-{marker}"):
                item.add_marker(pytest.mark.skip(reason=f"give --run-{marker} to run it"))
        if "gpu" in item.keywords and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
