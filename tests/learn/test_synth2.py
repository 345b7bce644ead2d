"""Synth²'s captioner from pairs to answers: what is learned, what is saved, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import reverie
from reverie import pairs
from reverie.arms import Arm
from reverie.cli.main import main
from reverie.datasets.captioned import CaptionedImages
from reverie.errors import InputError, ModelError
from reverie.evaluate.captioning import MeasureCaptions
from reverie.learn import manifest
from reverie.learn.synth2 import Synth2
from reverie.learn.train_language import TrainLanguageModel
from reverie.learn.train_token_captioner import TrainTokenCaptioner
from reverie.learn.train_token_painter import TrainTokenPainter
from reverie.models.tokenizer import open_tokenizer
from reverie.nets.token_captioner import LookShape, lookup
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.pictures import as_png
from reverie.store.token_batches import read_token_pairs
from tests.models import tiny

SIDE = 16
SMALL = LookShape(width=8, latents=4, layers=1, heads=2, max_tokens=8)
COLOURS = {"red": (220, 30, 40), "green": (35, 160, 60), "blue": (40, 70, 225)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    writer = tiny.save_writer(folder / "writer")
    language = transformers.GPT2LMHeadModel.from_pretrained(writer)
    language.transformer.wte.weight.data.mul_(25)  # so that it can be sure of a word, though it learns nothing
    language.save_pretrained(writer)
    return str(writer), str(tiny.save_vq(folder / "vq"))


def say(*words):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return ended.value.code


def picture(number, seed=0):
    """Of one colour, with a pattern of its own, that a tokenizer which learned nothing can tell from others."""
    colour = list(COLOURS.values())[number % 3]
    pattern = np.random.default_rng(number % 3).normal(0, 60, (SIDE, SIDE, 3))
    noise = np.random.default_rng([seed, number]).normal(0, 12, (SIDE, SIDE, 3))
    return np.clip(np.array(colour) + pattern + noise, 0, 255).astype(np.uint8)


def fill(folder, models, count, origin="real", seed=0, **changes):
    """A store of pictures of one colour each, with their tokens and captions."""
    tokenizer = open_tokenizer(models[1])
    rows = []
    for number in range(count):
        image = picture(number, seed)
        ids = tokenizer.ids(image[None])[0]
        rows.append(
            {
                "pair_id": f"{origin}{seed}{number:03d}", "caption_id": f"{origin}{seed}{number:03d}", "copy": 0, "unit": 0,
                "text": f"a {list(COLOURS)[number % 3]} circle", "image": as_png(Image.fromarray(image)),
                "tokens": ids.ravel().tolist(), "grid": list(ids.shape), "codebook": tokenizer.codebook_name,
                "width": SIDE, "height": SIDE, "origin": origin, "status": "ok", **changes,
            }
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tables.append_unit(folder / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("stores")
    return fill(folder / "real", models, 30), fill(folder / "painted", models, 30, "painted", seed=1)


def job(models, stores, **settings):
    known = {"language_model": models[0], "tokenizer": models[1], "real": stores[0], "painted": stores[1]}
    small = {"size_px": SIDE, "shape": SMALL, "steps": 3, "batch": 6, "warmup_steps": 0, "lr": 1e-2}
    return TrainTokenCaptioner(**{**known, **small, **settings})


def trained(folder, stage, step="captioner"):
    context = StepContext(folder, step, seed=7)
    stage.run(context)
    return context.weights()


def test_pixels_and_tokens_are_one_thing_to_the_model(models):
    learner = Synth2(*models, SIDE, SMALL)
    tokenizer = open_tokenizer(models[1])
    images = np.stack([picture(number) for number in range(5)])
    ids = torch.from_numpy(tokenizer.ids(images))
    again = learner.ids(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert torch.equal(ids, again)
    assert ids.dtype == again.dtype
    real = tokenizer.vq.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).latents
    quantised = tokenizer.vq.quantize(real)[0]
    torch.testing.assert_close(lookup(tokenizer.codebook, ids), quantised)
    torch.manual_seed(0)
    net = learner.build()
    batch = {"text": ["a red circle"] * 5, "painted": torch.zeros(5, dtype=torch.bool)}
    by_ids = learner.losses(net, batch | {"tokens": ids})["loss"]
    by_pictures = learner.losses(net, batch | {"images": torch.from_numpy(images).permute(0, 3, 1, 2)})["loss"]
    assert by_ids == by_pictures


def test_weight_of_painted_pairs(models):
    learner = Synth2(*models, SIDE, SMALL)
    torch.manual_seed(0)
    net = learner.build()
    tokens = torch.randint(0, 12, (2, 4, 4))
    texts = ["a red circle", "two large blue squares on white"]

    def loss(weight, rows):
        batch = {"tokens": tokens[rows], "text": [texts[row] for row in rows], "painted": torch.tensor(rows) == 1}
        return dataclasses.replace(learner, painted_weight=weight).losses(net, batch)["loss"].item()

    real, painted = loss(1.0, [0]), loss(1.0, [1])
    words = [4, 7]  # with the end token
    for weight in (1.0, 0.25):
        expected = (words[0] * real + weight * words[1] * painted) / (words[0] + weight * words[1])
        assert loss(weight, [0, 1]) == pytest.approx(expected, rel=1e-5)


def test_a_captioner_learns_colours_and_answers_by_every_door(tmp_path, models, stores, monkeypatch, capsys):
    stage = job(models, stores, steps=60, batch=12, shape=dataclasses.replace(SMALL, mode="gated", width=16))
    folder = trained(tmp_path, stage)
    captioner = reverie.load_captioner(tmp_path)
    texts = [told.text for told in captioner([picture(number, seed=9) for number in range(6)])]
    assert texts == [f"a {colour} circle" for colour in (*COLOURS, *COLOURS)]
    assert [told.text for told in captioner([picture(1, seed=9)], beams=2)] == ["a green circle"]
    with pytest.raises(InputError, match="no support set"):
        captioner([picture(0)], num_nearest=2)
    with pytest.raises(InputError, match="no support set"):
        reverie.load_captioner(tmp_path, support=tmp_path)
    assert captioner.control.startswith("uncontrolled: the painter does not say")

    Image.fromarray(picture(2, seed=9)).save(tmp_path / "photo.png")
    assert say("caption", folder, tmp_path / "photo.png", "--json", "--device", "cpu") == 0
    assert json.loads(capsys.readouterr().out)["caption"] == "a blue circle"

    photos = CaptionedImages(
        [f"{n}.png" for n in range(3)],
        [picture(n, seed=9) for n in range(3)],
        [[f"a {name} circle"] for name in COLOURS],
    )
    monkeypatch.setattr("reverie.evaluate.captioning.load_captioned", lambda *_: photos)
    measure = MeasureCaptions((Arm("ours", "Ours", 0, "captioner"),))
    context = StepContext(tmp_path, "measure", seed=7)
    measure.run(context)
    records = [json.loads(line) for line in context.results.read_text().splitlines()]
    assert [record["value"] for record in records if record["metric"] == "bleu1"] == [pytest.approx(1.0)]
    told = {}
    report = lambda kind, **facts: told.update({facts.get("what", kind): facts.get("whole")})  # noqa: E731
    measure.trial(8, len).job.run(dataclasses.replace(context, report=report))
    words = 7 * (len(["a", "red", "circle"]) + 1)  # in each batch of 400 photos, with the end of the sentence
    assert (told["photos"], told["words"] >= words, told["captions scored"]) == (400, True, 800)
    results = tmp_path / "captions" / "measure" / "coco"
    assert (
        say("evaluate", "captions", results / "ours-0-greedy.json", results / "references.json", "--metrics", "bleu")
        == 0
    )


@pytest.mark.parametrize("mode", ["gated", "prefix"])
def test_what_is_saved_is_what_was_trained(tmp_path, models, stores, mode):
    weights = trained(tmp_path, job(models, stores, shape=dataclasses.replace(SMALL, mode=mode)))
    opened = reverie.load_captioner(weights)
    learner, batch = Synth2(*models, SIDE, dataclasses.replace(SMALL, mode=mode)), {"text": ["a red circle"]}
    tokens = torch.from_numpy(open_tokenizer(models[1]).ids(picture(0)[None]))
    net = learner.build()
    from reverie.models.pretrained import load_into

    load_into(net, tmp_path / "checkpoints" / "captioner" / "latest" / "net.safetensors")
    here, there = (learner.losses(each, batch | {"tokens": tokens})["loss"].item() for each in (net.eval(), opened.net))
    assert here == there
    about = json.loads((weights / "captioner.json").read_text())
    assert about["trained"] | {"real_seen": 9, "painted_seen": 9, "rho": 0.5} == about["trained"]


def test_painted_pairs_after_human_ones_go_on_from_their_weights_at_a_rate_of_their_own(tmp_path, models, stores):
    first = trained(tmp_path, job(models, stores, rho=0.0, steps=4), "human")
    stage = job(models, stores, rho=1.0, start="human", steps=6, warmup_steps=2)
    weights = trained(tmp_path, stage)
    begun = stage.learner(StepContext(tmp_path, "captioner")).build()
    known = reverie.load_captioner(first).net.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in begun.state_dict().items())
    rates = [json.loads(line)["lr"] for line in (tmp_path / "checkpoints/captioner/curve.jsonl").open()]
    assert rates[0] < max(rates) == pytest.approx(stage.lr)
    told = json.loads((weights / "captioner.json").read_text())["trained"]
    assert (told["mode"], told["real_seen"], told["painted_seen"], told["steps"]) == ("finetune", 24, 36, 10)
    with pytest.raises(ModelError, match="of another shape"):
        trained(tmp_path, job(models, stores, start="human", shape=dataclasses.replace(SMALL, latents=2)), "other")


def test_comparisons_are_controlled_only_where_pairs_are_the_same(tmp_path, models, stores):
    painter = tmp_path / "painter"
    painter.mkdir()
    known = trained(tmp_path / "a", job(models, stores))
    learned = manifest.read_manifest(known)
    assert learned.pairs == 30
    manifest.write_manifest(learned, painter)
    told = reverie.load_captioner(trained(tmp_path / "b", job(models, stores, painter=str(painter), controlled=True)))
    assert told.control.startswith("controlled: painter and captioner learned from the same 30 pairs")
    fewer = job(models, stores, painter=str(painter), num_real=20)
    told = reverie.load_captioner(trained(tmp_path / "c", fewer))
    assert told.control.startswith("uncontrolled: the painter learned from 30 pairs")
    with pytest.raises(InputError, match="no controlled comparison: the painter learned from 30 pairs"):
        trained(tmp_path / "d", dataclasses.replace(fewer, controlled=True))
    with pytest.raises(InputError, match="some-model does not say which pairs"):
        trained(tmp_path / "e", job(models, stores, painter="some-model", controlled=True))


def test_other_pictures_under_the_same_names_are_other_pairs(tmp_path, models, stores):
    known = manifest.read_manifest(trained(tmp_path / "a", job(models, stores)))
    table = stores[0] / "pairs.lance"
    tokenizer = open_tokenizer(models[1])
    pairs_ = read_token_pairs(table, tokenizer.codebook_name, tokenizer.num_codes, tokenizer.grid(SIDE))
    assert manifest.manifest_of_pairs(pairs_) == known
    other = dataclasses.replace(pairs_, tokens=pairs_.tokens[::-1])
    assert manifest.manifest_of_pairs(other).name != known.name
    # Who reads pictures in the place of tokens names the same pairs alike.
    assert manifest.manifest_of_pairs(dataclasses.replace(pairs_, tokens=None)) == known


def test_photos_in_the_place_of_paintings_are_more_pairs(tmp_path, models, stores):
    painter = tmp_path / "painter"
    painter.mkdir()
    manifest.write_manifest(manifest.read_manifest(trained(tmp_path / "a", job(models, stores))), painter)
    more = fill(tmp_path / "more", models, 5, seed=2)
    gold = job(models, (stores[0], more), painter=str(painter), where_painted="")
    told = reverie.load_captioner(trained(tmp_path / "b", gold))
    assert told.control.startswith("uncontrolled: the painter learned from 30 pairs")
    assert "another set, of 35" in told.control
    # The same photos again are no more pairs.
    again = job(models, (stores[0], stores[0]), painter=str(painter), where_painted="", controlled=True)
    assert reverie.load_captioner(trained(tmp_path / "c", again)).control.startswith("controlled")


@pytest.mark.parametrize("path", ["tokens", "pixels"])
def test_test_photos_among_the_pairs_are_found(tmp_path, models, stores, monkeypatch, path):
    photos = CaptionedImages(["x.png", "y.png"], [picture(5, seed=3), picture(4)], [["one"], ["two"]])
    monkeypatch.setattr("reverie.learn.train_token_captioner.load_captioned", lambda *_: photos)
    stage = job(models, stores, test_photos="smallworld:street:2", path=path)
    with pytest.raises(InputError, match=r"1 of 30 pairs of .* show test photos, first real0004 the photo y.png"):
        trained(tmp_path, stage)


def test_many_pairs_with_test_photos_are_never_told_by_a_list_that_cannot_be_pasted(
    tmp_path, models, stores, monkeypatch
):
    photos = CaptionedImages([f"{number}.png" for number in range(11)], list(map(picture, range(11))), [["one"]] * 11)
    monkeypatch.setattr("reverie.learn.train_token_captioner.load_captioned", lambda *_: photos)
    told = r"; take the test photos out of the folder or file that reverie import reads, and import it anew$"
    with pytest.raises(InputError, match=told):
        trained(tmp_path, job(models, stores, test_photos="smallworld:street:2"))


def test_what_cannot_be_trained_is_said(tmp_path, models, stores):
    for rho in (-0.5, 2.0):
        with pytest.raises(InputError, match="from 0 to 1"):
            job(models, stores, rho=rho)
    with pytest.raises(InputError, match="without a store of human pairs"):
        job(models, stores, real=None)
    with pytest.raises(InputError, match="holds no pairs"):
        job(models, (tmp_path / "nothing", stores[1])).check()
    with pytest.raises(InputError, match="have no caption, first real0000"):
        trained(tmp_path / "x", job(models, (fill(tmp_path / "bare", models, 3, text=None), stores[1])))
    with pytest.raises(ModelError, match="no causal language model"):
        trained(tmp_path / "y", job((str(tiny.save_seq2seq(tmp_path / "t5")), models[1]), stores))
    with pytest.raises(ModelError, match="vit"):
        trained(tmp_path / "z", job((str(tiny.save_vit(tmp_path / "vit")), models[1]), stores))
    with pytest.raises(InputError, match="do not fit into the 64 of the language model"):
        trained(tmp_path / "w", job(models, stores, shape=dataclasses.replace(SMALL, max_tokens=64)))
    other = str(tiny.save_vq(tmp_path / "other", seed=5))
    with pytest.raises(InputError, match="are of the codebook"):
        trained(tmp_path / "v", job((models[0], other), stores))


@pytest.mark.parametrize("stage", [TrainTokenCaptioner(real="human"), TrainTokenPainter(), TrainLanguageModel()])
def test_several_processes_are_refused_before_any_work(stage, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="trained by one process; start reverie without accelerate launch"):
        stage.check()


def test_a_damaged_captioner_is_one_line(tmp_path, models, stores):
    weights = trained(tmp_path, job(models, stores))
    about = json.loads((weights / "captioner.json").read_text())
    for change in ({"shape": {**about["shape"], "width": 12}}, {"codebook": "f" * 12}, {"size_px": 17}, {"begin": "x"}):
        (weights / "captioner.json").write_text(json.dumps({**about, **change}))
        with pytest.raises((ModelError, InputError)) as caught:
            reverie.load_captioner(weights)
        assert "\n" not in str(caught.value)
