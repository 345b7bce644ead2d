import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from reverie.learn.gather import gather


def train(folder, world):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        env = os.environ | common | (place if world > 1 else {})
        processes.append(subprocess.Popen([sys.executable, "-m", "tests.learn.joined", str(folder)], env=env))
    assert [process.wait(timeout=300) for process in processes] == [0] * world
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_two_processes_equal_one_on_the_joined_batch(tmp_path):
    one, two = train(tmp_path / "one", 1), train(tmp_path / "two", 2)
    assert len(one) == len(two) == 6
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for name in ("gradients.safetensors", "latest/net.safetensors"):
        first, second = load_file(tmp_path / "one" / name), load_file(tmp_path / "two" / name)
        assert first.keys() == second.keys()
        for key in first:
            torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


def test_alone_it_is_the_rows_themselves():
    rows = torch.randn(3, 2)
    assert gather(rows) is rows
