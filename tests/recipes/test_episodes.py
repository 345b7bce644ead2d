"""Episodes on the networks of a run that was trained before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reverie.arms import Arm, pixels, untrained
from reverie.errors import InputError
from reverie.evaluate.few_shot import _splits
from reverie.evaluate.linear_probe import LinearProbe
from reverie.models.backbones import build_backbone, save_backbone
from reverie.run.engine import run
from reverie.run.plan import Plan, Step, call_recipe
from reverie.smallworld.photos import labelled
from reverie.store import results
from reverie.store.pictures import as_png


def episodes(networks_from, eval_data, **flags) -> Plan:
    return call_recipe("episodes", {"networks_from": networks_from, "eval_data": eval_data, **flags})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """90 photos of three classes in one table, without a split."""
    images, labels, _ = labelled(90)
    path = tmp_path_factory.mktemp("photos") / "all.parquet"
    columns = {
        "image": [as_png(Image.fromarray(image)) for image in images],
        "label_name": [f"class {n % 3}" for n in labels],
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def trained(tmp_path):
    """A run folder with a probe in its plan and the weights that it names."""
    folder = tmp_path / "trained"
    folder.mkdir()
    probe = LinearProbe((Arm("ours", "our own").under(0), *untrained([0]), pixels()))
    Plan("x", (Step("probe", probe),)).settle(folder)
    (folder / "weights" / "ours-0").mkdir(parents=True)
    save_backbone(build_backbone("resnet-tiny", 32), folder / "weights" / "ours-0")
    return folder


def test_networks_of_a_run_are_measured_on_other_photos(trained, photos, tmp_path):
    plan = episodes(trained, str(photos), ways=3, num_shots=(2, 1), queries=4, episodes=20)
    run(plan, tmp_path / "out")
    found = results.read(tmp_path / "out" / "results.jsonl")
    assert [(record.step, record.arm) for record in found] == [
        (f"episodes-{few}", name) for few in (1, 2) for name in ("ours", "untrained", "pixels")
    ]
    assert {record.split for record in found} == {"half of train"}
    assert {record.label for record in found} == {"our own", "untrained network", "raw pixels"}
    assert "few-shot" in (tmp_path / "out" / "report.html").read_text()


def test_halves_share_no_photo_and_lose_none(photos):
    first, second, _ = _splits(str(photos))
    assert not set(first.images) & set(second.images)
    assert len(first) + len(second) == 90
    assert np.abs(np.bincount(first.labels) - np.bincount(second.labels)).max() <= 1


def test_slips(trained, photos, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        episodes(tmp_path / "none", str(photos))
    with pytest.raises(InputError, match="different numbers"):
        episodes(trained, str(photos), num_shots=(1, 1))
    (trained / "weights" / "ours-0" / "config.json").rename(trained / "config.json")
    with pytest.raises(InputError, match="ours-0 is none; give a run of stablerep"):
        episodes(trained, str(photos))
    (trained / "weights" / "ours-0").rename(trained / "weights" / "gone")
    with pytest.raises(InputError, match="no weights of ours-0 yet"):
        episodes(trained, str(photos))
