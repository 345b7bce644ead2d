"""A captioner that was trained for a second, and what it is asked about."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.datasets.captioned import load_captioned
from reverie.learn.fit import Fit, fit
from reverie.learn.syntic import CaptionRows, DecoderInputConfig, SynTIC
from reverie.models.captioner import ABOUT, SUPPORT
from reverie.models.encoder import open_encoder
from reverie.models.support_set import Support, save_support
from reverie.nets.captioner import DecoderShape

TEXTS = (
    "a red circle",
    "a large blue star on a white background",
    "two green rings",
    "a pink heart at the top of a grey background",
    "a small yellow square on a black background",
    "an orange triangle",
)


def save_captioner(folder: Path, seed: int = 0) -> Path:
    encoder = open_encoder("builtin:clip")
    rows = encoder.texts(TEXTS)
    shows = DecoderInputConfig(learns_from="text", tags="none")
    shape = DecoderShape(32, 1, 2, 0.0, max_tokens=14, tag_heads=2)
    learner = SynTIC("builtin:clip", rows.shape[1], tags="none", shape=shape)
    tags = torch.zeros(len(TEXTS), 0, dtype=torch.int64)
    batches = CaptionRows(rows, rows, tags, TEXTS, (), 6, seed)
    net, _ = fit(learner, batches, Fit(40, 2e-2, weight_decay=0.0), folder.with_name(f"fit-{seed}"), seed=seed)
    learner.save(net, folder)
    ids = [str(number) for number in range(len(TEXTS))]
    save_support(folder / SUPPORT, Support(ids, TEXTS, [None] * len(TEXTS), rows, "builtin:clip", encoder.revision))
    about = {
        "encoder": "builtin:clip", "revision": encoder.revision, "detector": None, "threshold": 0.7, "max_tags": 10, "names": [],
        "shows": dataclasses.asdict(shows), "shape": dataclasses.asdict(shape),
    }  # fmt: skip
    (folder / ABOUT).write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="session")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captioner(tmp_path_factory.mktemp("captioner") / "captioner")


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Photos of the small world, encoded."""
    found = []
    for image in load_captioned("smallworld:street:12").images:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(image)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found
