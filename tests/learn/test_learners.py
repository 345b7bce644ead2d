import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, CLIPModel, CLIPProcessor

from reverie.errors import InputError
from reverie.learn import views
from reverie.learn.clip import CLIP
from reverie.learn.fit import Fit, fit
from reverie.learn.language import LanguageModel, WordToSentenceModel
from reverie.learn.simclr import SimCLR
from reverie.learn.stablerep import StableRep, TextTower
from reverie.models.backbones import load_backbone, represent
from reverie.models.encoder import open_encoder

SMALL = {"backbone": "resnet-tiny", "image_size": 32, "head_hidden": 32, "head_out": 16}
SETTINGS = Fit(steps=12, lr=3e-3, warmup_steps=2)


@pytest.fixture
def tower(tokenizer_folder):
    return TextTower(tokenizer=tokenizer_folder, width=32, layers=1, heads=2, context=16, out=16)


def train(learner, batches, folder, steps=12):
    result = fit(learner, batches, dataclasses.replace(SETTINGS, steps=steps), folder, seed=0)
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    learner.save(result.net, folder / "weights")
    return result, rows


def test_stablerep_learns_and_its_weights_open_anywhere(pictures, tmp_path):
    (net, _), rows = train(StableRep(**SMALL, images_per_caption=3), pictures(8, 3), tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert rows[0]["kl"] == pytest.approx(rows[0]["loss"] - np.log(2), abs=1e-5)
    images = next(pictures(8, 3).iterate(5))["images"]
    with torch.no_grad():
        expected = represent(net.backbone, images)
        torch.testing.assert_close(represent(load_backbone(tmp_path / "weights"), images), expected)
        public = AutoModel.from_pretrained(tmp_path / "weights")(views.plain(images, 32)).pooler_output
    torch.testing.assert_close(public.flatten(1), expected)


def test_batch_norm_of_the_head_sees_one_view_group_at_a_time(pictures):
    learner = StableRep(**SMALL, images_per_caption=2, crops=2)
    torch.manual_seed(0)
    net = learner.build().train()
    pixels = views.plain(next(pictures(6, 4).iterate(0))["images"], 32)  # 4 groups of 6
    found = represent(net.backbone, pixels)
    expected = torch.cat([net.head(found[start : start + 6]) for start in range(0, 24, 6)])
    torch.testing.assert_close(net(pixels, None)["features"], expected)
    assert not torch.allclose(net.head(found), expected, atol=1e-3)


def test_simclr_is_nt_xent_of_two_crops(pictures):
    learner = SimCLR(**SMALL)
    torch.manual_seed(0)
    net = learner.build().train()
    batch = next(pictures(5, 1).iterate(0))
    torch.manual_seed(1)
    loss = learner.losses(net, batch)["loss"]
    torch.manual_seed(1)
    pixels = torch.cat([views.strong(batch["images"], 32), views.strong(batch["images"], 32)])
    unit = F.normalize(net(pixels, None)["features"], dim=1)
    logits = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf)
    torch.testing.assert_close(loss, F.cross_entropy(logits, (torch.arange(10) + 5) % 10))


def test_stablerep_plus_adds_the_text_term(pictures, tower, tmp_path):
    learner = StableRep(**SMALL, images_per_caption=2, text_tower=True, text=tower, downscale_px=(16,))
    (net, _), rows = train(learner, pictures(8, 2), tmp_path)
    for row in rows:
        assert row["loss"] == pytest.approx(row["contrast"] + row["image_text"], rel=1e-5)
        assert row["captions_cut"] == 0
    assert rows[-1]["image_text"] < rows[0]["image_text"]
    assert float(net.logit_scale.detach()) != pytest.approx(np.log(1 / 0.07), abs=1e-4)
    encoder = open_encoder(str(tmp_path / "weights" / "dual_encoder"))
    assert encoder.logit_scale == pytest.approx(float(net.logit_scale.detach().exp()))
    with torch.no_grad():
        for value in (-3.0, 9.0):
            net.logit_scale.fill_(value)
            learner.after_step(net)
            assert float(net.logit_scale) == pytest.approx(min(max(value, 0), np.log(100)), abs=1e-4)


def test_long_captions_are_cut_before_the_end_token_and_counted(pictures, tower):
    learner = StableRep(**SMALL, images_per_caption=1, crops=2, text_tower=True, text=tower)
    batch = next(pictures(4, 1).iterate(0))
    batch["text"][2] = "red " * 40
    torch.manual_seed(0)
    assert float(learner.losses(learner.build(), batch)["captions_cut"]) == 0.25


def test_vit_backbone_trains_all_its_weights(pictures, tmp_path):
    learner = StableRep(backbone="vit-tiny", image_size=32, head_hidden=32, head_out=16, images_per_caption=2)
    net = learner.build()
    learner.losses(net, next(pictures(4, 2).iterate(0)))["loss"].backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


def test_wrong_batches_are_named(pictures):
    learner = StableRep(**SMALL, images_per_caption=3)
    net = learner.build()
    with pytest.raises(InputError, match="8 images for 4 captions, but the learner wants 3 for each"):
        learner.losses(net, next(pictures(4, 2).iterate(0)))
    with pytest.raises(InputError, match="2 or more captions"):
        learner.losses(net, next(pictures(1, 3).iterate(0)))


def test_clip_learns_and_opens_as_clip(pictures, tower, tmp_path):
    learner = CLIP(image_size=32, patch_size=8, width=32, layers=1, heads=2, text=tower, augmentation="none")
    (net, _), rows = train(learner, pictures(8, 1), tmp_path, steps=25)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    model = CLIPModel.from_pretrained(tmp_path / "weights").eval()
    processor = CLIPProcessor.from_pretrained(tmp_path / "weights", backend="pil")
    batch = next(pictures(4, 1).iterate(0))
    inputs = processor(
        text=batch["text"], images=list(batch["images"].permute(0, 2, 3, 1).numpy()), return_tensors="pt", padding=True
    )
    torch.testing.assert_close(inputs["pixel_values"], views.plain(batch["images"], 32), atol=1e-4, rtol=0)
    with torch.no_grad():
        public = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
            return_loss=True,
        )
        ours = learner.losses(net, batch)["loss"]
    torch.testing.assert_close(public.loss, ours, rtol=1e-4, atol=1e-5)
    assert float(model.logit_scale.detach().exp()) == pytest.approx(1 / 0.07, rel=0.2)


def test_clip_on_a_backbone_is_clip_and_opens_as_a_backbone_and_as_an_encoder(pictures, tower, tmp_path):
    learner = CLIP(image_size=32, text=tower, augmentation="none", backbone="resnet-tiny")
    (net, _), rows = train(learner, pictures(8, 1), tmp_path, steps=25)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    batch = next(pictures(5, 1).iterate(0))
    net = net.eval()
    with torch.no_grad():
        ours = learner.losses(net, batch)["loss"]
        rows = represent(load_backbone(tmp_path / "weights"), batch["images"])
        torch.testing.assert_close(rows, represent(net.backbone, batch["images"]))
    encoder = open_encoder(str(tmp_path / "weights" / "dual_encoder"))
    pixels = batch["images"].permute(0, 2, 3, 1).numpy()
    logits = encoder.logit_scale * encoder.images(pixels) @ encoder.texts(batch["text"]).T
    # Slowly: the logarithm of the share that the own caption has among all captions, and the own image among all images.
    total = 0.0
    for row in range(5):
        for line in (logits[row], logits[:, row]):
            total -= float((line[row].exp() / sum(value.exp() for value in line)).log()) / 10
    assert float(ours) == pytest.approx(total, rel=1e-3)
    with torch.no_grad():
        net.logit_scale.fill_(9.0)
        learner.after_step(net)
    assert float(net.logit_scale.detach()) == pytest.approx(np.log(100), abs=1e-4)


def test_a_tokenizer_whose_end_token_would_be_misread_is_refused(tower, tokenizer_folder, tmp_path):
    text = open(f"{tokenizer_folder}/tokenizer.json").read()  # noqa: PTH123, SIM115
    swapped = text.replace('"<start>": 2', '"<start>": 99').replace('"<end>": 3', '"<end>": 2').replace(": 99", ": 3")
    assert swapped != text
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(open(f"{tokenizer_folder}/{name}", "rb").read())  # noqa: PTH123, SIM115
    (tmp_path / "tokenizer.json").write_text(swapped)
    learner = CLIP(image_size=32, patch_size=8, width=32, layers=1, heads=2)
    learner = dataclasses.replace(learner, text=dataclasses.replace(tower, tokenizer=str(tmp_path)))
    with pytest.raises(InputError, match="id other than 2"):
        learner.build()


def test_word_to_sentence_learns_which_class_and_to_stop(tokenizer_folder, tmp_path):
    class Lines:
        def iterate(self, start):
            while True:
                yield {
                    "label": ["circle", "square", "circle", "square"],
                    "text": ["a red circle", "a blue square", "a red circle on grey", "green " * 20],
                }

    learner = WordToSentenceModel(tokenizer=tokenizer_folder, width=32, layers=1, heads=2, dropout=0.0, context=12)
    _, rows = train(learner, Lines(), tmp_path, steps=150)
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    assert rows[0]["texts_cut"] == 0.25
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "weights").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "weights")
    assert (model.config.decoder_start_token_id, model.config.eos_token_id) == (2, 3)
    asked = tokenizer(["circle"], return_tensors="pt")["input_ids"]
    labels = tokenizer(["a red circle"], return_tensors="pt")["input_ids"][:, 1:]
    with torch.no_grad():
        public = model(input_ids=asked, labels=labels).loss
        ours = learner.losses(model, {"label": ["circle"], "text": ["a red circle"]})["loss"]
    torch.testing.assert_close(public, ours)
    said = tokenizer.batch_decode(model.generate(asked, max_new_tokens=12), skip_special_tokens=True)[0]
    assert said.startswith("a red circle")


def test_word_to_sentence_needs_class_names(tokenizer_folder):
    learner = WordToSentenceModel(tokenizer=tokenizer_folder, width=32, layers=1, heads=2)
    with pytest.raises(InputError, match="'a red circle' has no class name"):
        learner.losses(learner.build(), {"label": [None], "text": ["a red circle"]})


def test_language_model_learns_to_stop(tokenizer_folder, tmp_path):
    class Lines:
        def iterate(self, start):
            while True:
                yield {"text": ["a red circle", "a blue square", "a red circle on grey", "green " * 20]}

    learner = LanguageModel(tokenizer=tokenizer_folder, width=32, layers=1, heads=2, context=12)
    _, rows = train(learner, Lines(), tmp_path, steps=60)
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]
    assert rows[0]["texts_cut"] == 0.25
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "weights").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "weights")
    assert model.config.eos_token_id == tokenizer.eos_token_id == 3
    inputs = tokenizer(["a blue square"], return_tensors="pt")
    with torch.no_grad():
        labels = inputs["input_ids"]
        public = model(input_ids=labels, labels=labels).loss
        ours = learner.losses(model, {"text": ["a blue square"]})["loss"]
    torch.testing.assert_close(public, ours)
