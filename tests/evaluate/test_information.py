import numpy as np
import pytest
import torch

from reverie.errors import InputError
from reverie.evaluate.information import conditional_information, ranked, retrieved
from reverie.learn.text_to_image import TextToImage
from reverie.smallworld.describe import describe
from reverie.smallworld.render import render
from reverie.smallworld.scene import sample


def world(num):
    rng = np.random.default_rng(0)
    scenes = [sample(rng) for _ in range(num)]
    pictures = np.stack([render(scene, "studio", number).image for number, scene in enumerate(scenes)])
    texts = {style: [describe(scene, style, rng) for scene in scenes] for style in ("human", "alt")}
    return pictures, texts


def test_right_captions_tell_more_than_wrong_ones():
    pictures, texts = world(12)
    kinds = {"right": texts["human"], "wrong": texts["human"][3:] + texts["human"][:3], "none": [""] * 12}
    found = {one.captions: one for one in conditional_information("builtin:painter", pictures, kinds, times=3)}
    assert found["right"].drop.value > found["wrong"].drop.value
    assert found["right"].drop.value > 0
    assert found["none"].drop.value == 0
    assert set(found["none"].each) == {0.0}
    assert found["right"].drop.low <= found["right"].drop.value <= found["right"].drop.high
    order = ranked(list(found.values()))
    assert order[0][0] == "right"
    assert order[0][1].mean > 0
    assert order[-1][1] is None


def test_drop_is_that_of_the_painters_own_loss():
    pictures, texts = world(2)
    (found,) = conditional_information("builtin:painter", pictures, {"human": texts["human"]}, times=1, batch_size=1)
    from reverie import seeds

    learner = TextToImage(start="builtin:painter", caption_drop=0.0)
    net = learner.build().eval()
    for number in range(2):
        images = torch.from_numpy(pictures[number : number + 1]).permute(0, 3, 1, 2)
        seed = [seeds.derive("information", 0, number, 0) % 2**62]
        with torch.no_grad():
            losses = [
                float(learner.losses(net, {"images": images, "text": [text], "seeds": seed})["loss"])
                for text in ("", texts["human"][number])
            ]
        assert found.each[number] == pytest.approx(losses[0] - losses[1], rel=1e-4, abs=1e-6)


class Words:
    """An encoder of pictures that are numbers, and of texts that name one."""

    def images(self, pictures):
        return torch.eye(9)[list(pictures)]

    def texts(self, texts):
        return torch.eye(9)[[int(text[-1]) for text in texts]]


def test_captions_find_their_pictures():
    kinds = {"own": ["a 1", "a 2", "a 3"], "same": ["a 2"] * 3, "others": ["a 2", "a 3", "a 1"]}
    assert retrieved(Words(), [1, 2, 3], kinds) == {"own": 1.0, "same": 1.0, "others": 0.0}
    with pytest.raises(InputError, match="2 captions few for 3 pictures"):
        retrieved(Words(), [1, 2, 3], {"few": ["a 1", "a 2"]})


def test_what_cannot_be_measured():
    pictures, texts = world(2)
    with pytest.raises(InputError, match="1 captions human for 2 pictures"):
        conditional_information("builtin:painter", pictures, {"human": texts["human"][:1]})
    with pytest.raises(InputError, match="at least one kind"):
        conditional_information("builtin:painter", pictures, {})
