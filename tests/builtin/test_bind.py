"""A text encoder grows without changing what it says, and learns which thing is where."""

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTextModel

from reverie.builtin.bind import LearnToBind, Places, ToBind, binding_loss, deeper, open_bound
from reverie.builtin.reader import Scenes, targets_of
from reverie.learn.text_to_image import TextToImage
from reverie.models.names import BUILTIN
from reverie.smallworld.scene import Scene, Thing

PAINTER = BUILTIN / "painter"


@pytest.fixture(scope="module")
def ids():
    network = TextToImage(str(PAINTER / "vae"), str(PAINTER / "tokenizer"))
    return network.tokens(["a red circle left of a blue star", "a blue star left of a red circle", "a green ring"])


@pytest.fixture(scope="module")
def old():
    return CLIPTextModel.from_pretrained(PAINTER, subfolder="text_encoder").float().eval()


def test_a_deeper_encoder_says_the_same(old, ids):
    layers = old.config.num_hidden_layers
    new = deeper(old, layers + 2).eval()
    assert new.config.num_hidden_layers == len(new.encoder.layers) == layers + 2
    assert old.config.num_hidden_layers == layers
    with torch.no_grad():
        torch.testing.assert_close(new(ids).last_hidden_state, old(ids).last_hidden_state)
    loss = new(ids).last_hidden_state.square().sum()
    loss.backward()
    assert new.encoder.layers[-1].mlp.fc2.weight.grad.abs().max() > 0  # the new ones can learn at once
    assert deeper(old, 1).config.num_hidden_layers == layers


def test_the_loss_is_a_mean_over_places_that_count():
    torch.manual_seed(0)
    shapes, colours = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    targets = torch.tensor(
        [[1, 2, -1, -1, 3, 4, -1, -1, 1], [5, 5, 5, 5, 0, 0, 0, 0, 0], [-1, -1, 7, 6, -1, -1, 1, 2, 1]]
    )
    slow = 0.0
    for logits, columns in ((shapes, targets[:, :4]), (colours, targets[:, 4:8])):
        found = [
            float(-F.log_softmax(logits[row, place], 0)[columns[row, place]])
            for row in range(3)
            for place in range(4)
            if columns[row, place] >= 0
        ]
        assert len(found) == 8
        slow += sum(found) / len(found)
    assert binding_loss((shapes, colours), targets).item() == pytest.approx(slow, abs=1e-5)


def test_it_learns_which_is_where_and_stays_near(tmp_path, ids):
    red, blue = Thing("circle", "red", "large", 0.25, 0.5, 0.15), Thing("star", "blue", "large", 0.75, 0.5, 0.15)
    ways = [Scene((red, blue), "white"), Scene((red, blue), "white"), Scene((red,), "white")]
    targets = [targets_of(scene) for scene in ways]
    targets[1] = [
        targets[0][place] for place in (1, 0, 2, 3, 5, 4, 6, 7, 8)
    ]  # the second caption says it the other way round
    sets = [
        Scenes(torch.zeros(1, 4, 16, 16), ids[None, 2:], torch.tensor(targets[2:])),
        Scenes(torch.zeros(2, 4, 16, 16), ids[:2, None], torch.tensor(targets[:2])),
    ]
    batches = ToBind(sets, ids[:, None], 0, counts=(1, 6, 2))
    first = next(batches.iterate(4))
    assert first["ids"].shape == (9, ids.shape[1])
    assert first["targets"].shape == (7, 9)
    assert all(torch.equal(first[name], value) for name, value in next(batches.iterate(4)).items())
    assert not torch.equal(
        first["ids"], next(ToBind(sets, ids[:, None], 0, rank=1, counts=(1, 6, 2)).iterate(4))["ids"]
    )

    torch.manual_seed(0)
    learner = LearnToBind(str(PAINTER))
    net = learner.build()
    kept = {name: weight.clone() for name, weight in net.before.named_parameters()}
    learning = torch.optim.AdamW([weight for weight in net.parameters() if weight.requires_grad], lr=3e-3)
    seen = []
    for batch, _ in zip(batches.iterate(0), range(40), strict=False):
        found = learner.losses(net, batch)
        learning.zero_grad()
        found["loss"].backward()
        learning.step()
        seen.append({name: value.item() for name, value in found.items()})
    assert seen[0]["moved"] < 1e-6
    assert seen[-1]["binding"] < 0.2 < seen[0]["binding"]
    assert seen[-1]["right"] == 1
    assert all(torch.equal(weight, kept[name]) for name, weight in net.before.named_parameters())

    learner.save(net, tmp_path)
    encoder, places = open_bound(tmp_path)
    assert isinstance(places, Places)
    assert all(weight.requires_grad for weight in encoder.parameters())
    with torch.no_grad():
        shapes, _ = places(encoder.eval()(ids[:2]).last_hidden_state)
        torch.testing.assert_close(shapes, net.places(net.encoder.eval()(ids[:2]).last_hidden_state)[0])
    assert shapes[:, :2].argmax(-1).tolist() == [targets[0][:2], targets[1][:2]]
