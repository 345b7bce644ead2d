"""What StableRep+ trains, opened as an encoder of images and texts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from reverie.errors import ModelError
from reverie.filters.clip_score import ClipScore
from reverie.learn.stablerep import StableRep, TextTower
from reverie.models.backbones import load_backbone, represent
from reverie.models.captioner import load_captioner
from reverie.models.encoder import open_backbone, open_encoder
from reverie.models.kinds import check_encoder
from reverie.models.pretrained import check_model, feature_dim
from reverie.models.zero_shot import class_embeddings
from reverie.nets.text import tokenize
from reverie.run.engine import run
from reverie.run.plan import call_recipe
from reverie.stage import StepContext
from reverie.store import results
from tests.filters.conftest import pair_rows

TOWER = TextTower(tokenizer="builtin:clip", width=32, layers=1, heads=2, context=16, out=24)
LEARNER = StableRep(
    backbone="resnet-tiny",
    image_size=32,
    head_hidden=32,
    head_out=16,
    images_per_caption=2,
    text_tower=True,
    text=TOWER,
)
TEXTS = ["a red circle", "a blue star on a green background", "a large yellow heart"]


@pytest.fixture(params=["resnet-tiny", "vit-tiny"])
def trained(request, tmp_path):
    learner = dataclasses.replace(LEARNER, backbone=request.param)
    torch.manual_seed(0)
    net = learner.build().eval()
    net.logit_scale.data.fill_(1.5)
    learner.save(net, tmp_path / "weights")
    return learner, net, tmp_path / "weights"


@torch.no_grad()
def test_it_gives_what_training_saw(trained):
    learner, net, folder = trained
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    encoder = open_encoder(str(folder / "dual_encoder"))
    images = net.image_projection(represent(net.backbone, torch.from_numpy(pictures).permute(0, 3, 1, 2)))
    torch.testing.assert_close(encoder.images(pictures), F.normalize(images, dim=1), atol=1e-5, rtol=0)
    tokens = tokenize(learner._tokenizer(), TEXTS, TOWER.context)
    texts = net.text(input_ids=tokens.ids, attention_mask=tokens.mask).text_embeds
    torch.testing.assert_close(encoder.texts(TEXTS), F.normalize(texts, dim=1), atol=1e-5, rtol=0)
    assert encoder.logit_scale == pytest.approx(np.exp(1.5))
    assert encoder.texts(["red " * 40]).shape == (1, 24)
    assert encoder.num_cut == 1


def test_a_process_that_did_not_train_it_knows_it(tmp_path):
    """transformers does not: whoever opens a model must have told it of ours before."""
    LEARNER.save(LEARNER.build(), tmp_path / "weights")
    folder = str(tmp_path / "weights" / "dual_encoder")
    words = [
        sys.executable,
        "-c",
        "import sys; from reverie.models.kinds import check_encoder; check_encoder(sys.argv[1])",
    ]
    done = subprocess.run([*words, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file = Path(folder) / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != "logit_scale"}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights \(logit_scale\)"):
        check_encoder(folder)


def test_its_size_is_known_before_it_is_opened_and_the_backbone_stays(trained):
    _, net, folder = trained
    check_model(str(folder / "dual_encoder"))
    assert feature_dim(str(folder / "dual_encoder")) == 24
    weights = load_backbone(folder).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in net.backbone.state_dict().items())
    assert open_backbone(str(folder / "dual_encoder")).features(np.zeros((1, 32, 32, 3), np.uint8)).ndim == 2


def test_clip_scores_and_zero_shot_heads_are_made_with_it(trained, tmp_path):
    name = str(trained[2] / "dual_encoder")
    encoder = open_encoder(name)
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "yellow")]
    rows = pair_rows(pictures, texts=TEXTS)
    stage = ClipScore(name)
    found = stage.open(StepContext(tmp_path, "score"))(rows.select(["pair_id", "unit", *stage.reads]))
    expected = (encoder.images(pictures) * encoder.texts(TEXTS)).sum(dim=1)
    torch.testing.assert_close(torch.tensor(found["clip_score"].to_numpy()), expected)
    heads = class_embeddings(encoder, ["circle", "star"], ["a {class}", "a red {class}"])
    assert heads.shape == (2, 24)


@pytest.mark.slow
def test_zero_shot_and_syntic_run_on_it(trained, tmp_path):
    name = str(trained[2] / "dual_encoder")
    flags = {"clip": name, "sampler_steps": 1}
    classes = {"per_class": 2, "eval_data": "smallworld:street:64:64"}
    assert run(call_recipe("zero_shot", flags | classes), tmp_path / "classes")
    values = {row.arm: row.value for row in results.read(tmp_path / "classes" / "results.jsonl")}
    assert 0 <= values["zero-shot"] <= 1
    small = {
        "sentences": 24,
        "epochs": 1,
        "width": 32,
        "tag_heads": 2,
        "eval_data": "smallworld:street:4",
        "parts": False,
    }
    assert run(call_recipe("syntic", flags | small), tmp_path / "captions")
    picture = Image.new("RGB", (64, 64), "red")
    assert len(load_captioner(tmp_path / "captions")([picture])) == 1


def test_lost_weights_are_told(trained):
    file = trained[2] / "dual_encoder" / "model.safetensors"
    weights = load_file(file)
    del weights["logit_scale"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        open_encoder(str(trained[2] / "dual_encoder"))


def test_the_folder_above_says_where_the_encoder_is(trained):
    with pytest.raises(ModelError, match=r"the encoder of images and texts that it belongs to is .*/dual_encoder"):
        open_encoder(str(trained[2]))
