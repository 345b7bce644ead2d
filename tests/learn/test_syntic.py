import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from reverie.errors import InputError
from reverie.learn.fit import Fit, fit
from reverie.learn.refine import Painted
from reverie.learn.syntic import METHODS, CaptionRows, DecoderInputConfig, SynTIC
from reverie.learn.train_captioner import TrainCaptioner, shown_to_decoder, tag_numbers
from reverie.models.support_set import Support
from reverie.nets.captioner import VISUAL, DecoderShape
from reverie.stage import StepContext

TEXTS = ["a red circle", "a large blue star on a white background", "two green rings", "a pink heart at the top"] * 4
SHAPE = DecoderShape(32, 1, 2, 0.0, max_tokens=12, tag_heads=2)


def rows(num, dim=16, seed=0):
    return F.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def batches(num=16, batch=8, prompts=()):
    tags = torch.tensor([[0, 1], [2, -1], [-1, -1], [1, -1]] * 4)[:num]
    return CaptionRows(rows(num), rows(num, seed=1), tags, TEXTS[:num], prompts, batch, 0)


@pytest.fixture
def learner(tmp_path):
    save_file({"rows": rows(3, seed=5)}, tmp_path / "tags.safetensors")
    return SynTIC("builtin:clip", 16, tmp_path / "tags.safetensors", shape=SHAPE)


def test_it_learns_and_what_it_saves_is_what_it_learned(learner, tmp_path):
    net, _ = fit(learner, batches(), Fit(60, 1e-2, weight_decay=0.0), tmp_path / "fit", seed=0)
    batch = next(batches(4, 4).iterate(0))
    untrained = learner.build().eval()
    with torch.no_grad():
        after, before = (learner.losses(each.eval(), batch)["loss"].item() for each in (net, untrained))
    assert after < 0.7 * before
    learner.save(net, tmp_path / "saved")
    rest = load_file(tmp_path / "saved" / VISUAL)
    assert not any(name.startswith("decoder.") for name in rest)
    assert {"value.weight", "tags.weight", "nothing", "tag_rows"} <= rest.keys()


def test_rows_are_a_pure_function_of_their_position_and_none_comes_twice_in_a_pass():
    some = batches(16, 5)
    assert some.per_epoch == 3
    stream, late = some.iterate(0), some.iterate(4)
    seen = [next(stream) for _ in range(6)]
    again = next(late)
    assert again["text"] == seen[4]["text"]
    assert again["feature"].equal(seen[4]["feature"])
    for first in (0, 3):
        numbers = torch.cat([batch["feature"] for batch in seen[first : first + 3]])
        assert len(numbers.unique(dim=0)) == 15
    few = batches(3, 8)
    assert len(next(few.iterate(0))["text"]) == 3


def test_noise_is_a_standard_deviation_and_capdecs_number_a_variance(learner):
    assert METHODS["capdec"].noise ** 2 == pytest.approx(0.016)
    assert METHODS["viecap"].noise == METHODS["capdec"].noise == pytest.approx(0.1265, abs=1e-4)
    noisy = dataclasses.replace(learner, noise=0.2, tags="none", dim=16)
    seen = {}

    class Net(torch.nn.Module):
        def forward(self, feature, shown, tags, ids, mask, prompt):
            seen["shown"] = shown
            return torch.zeros(*ids.shape, 9000)

    batch = next(batches(16, 16).iterate(0))
    torch.manual_seed(0)
    drawn = batch["shown"] + 0.2 * torch.randn_like(batch["shown"])
    torch.manual_seed(0)
    noisy.losses(Net(), batch)
    torch.testing.assert_close(seen["shown"], F.normalize(drawn, dim=1))
    torch.testing.assert_close(seen["shown"].norm(dim=1), torch.ones(16))


def test_a_prompt_leaves_names_out_while_it_learns_only(learner):
    asked = dataclasses.replace(learner, tags="prompt", tag_rows=None, prompt_dropout=1.0)
    seen = []

    class Net(torch.nn.Module):
        def forward(self, feature, shown, tags, ids, mask, prompt):
            seen.append(prompt)
            return torch.zeros(*ids.shape, 9000)

    batch = next(batches(4, 4, prompts=[["red circle"], ["blue star"], [], ["pink heart"]]).iterate(0))
    net = Net()
    asked.losses(net, batch)
    asked.losses(net.eval(), batch)
    assert seen[0].shape[1] == 0
    assert seen[1].shape[1] > 0
    nothing = batch["names"].index([])
    assert (seen[1][nothing] == -1).all()


def painted(groups):
    names = [f"c{number}" for number in range(len(groups))]
    return Painted(names, names, TEXTS[: len(groups)], groups, [[] for _ in groups], rows(len(groups)))


def test_own_sentences_are_hidden_in_three_readings(tmp_path):
    known = rows(6, seed=3)
    groups = ["p", "p", "q", "q", None, None]
    support = Support([f"c{n}" for n in range(6)], TEXTS[:6], groups, known, "e", "e@0")
    features, about, context = known.clone(), painted(groups), StepContext(tmp_path, "captioner")
    how = DecoderInputConfig(temperature=0.001)
    cosines = (known @ known.T) / 0.001
    own = torch.eye(6, dtype=torch.bool)
    same = own.clone()
    same[0, 1] = same[1, 0] = same[2, 3] = same[3, 2] = True
    for reading, hidden in (("none", ~own & own), ("caption", own), ("same_image_group", same)):
        found = shown_to_decoder(features, support, dataclasses.replace(how, exclude_self=reading), about, context)
        expected = cosines.masked_fill(hidden, -math.inf).softmax(1) @ known
        torch.testing.assert_close(found, F.normalize(expected, dim=1), atol=1e-4, rtol=0)
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 3


def test_tags_become_numbers_the_surest_first_and_strange_ones_are_passed_over():
    found = tag_numbers([["b", "x", "a"], [], ["a"]], ["a", "b"], 10)
    assert found.tolist() == [[1, 0], [-1, -1], [0, -1]]
    assert tag_numbers([["b", "a"]], ["a", "b"], 1).tolist() == [[1]]
    assert tag_numbers([[], []], ["a"], 3).shape == (2, 0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"refined": None}, "name the step that refined"),
        ({"detector": None}, "need a detector"),
        ({"epochs": 0}, "at least 1"),
        ({"shows": {"noise": -1.0}}, "standard deviation"),
        ({"shows": {"temperature": 0.0}}, "above 0"),
        ({"shows": {"prompt_dropout": 2.0}}, "a share"),
    ],
)
def test_slips(how, said):
    def make():
        shows = DecoderInputConfig(**how.pop("shows", {}))
        return TrainCaptioner(
            **({"support": "s", "refined": "r", "detector": "builtin:detector", "shows": shows} | how)
        )

    with pytest.raises(InputError, match=said):
        make()


def test_cut_short_its_passes_are_those_of_the_run():
    job = TrainCaptioner("support", "refine", detector="builtin:detector", epochs=5, batch=64)
    assert job.trial(8, lambda where: 1000).steps == 5 * 15  # 15 batches of 64 are in 1000
    assert job.trial(8, lambda where: 10).steps == 5
    assert dataclasses.replace(job, steps=3).trial(8, lambda where: 1 // 0).job.steps == 3
