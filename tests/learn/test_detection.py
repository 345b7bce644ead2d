import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from reverie.errors import InputError
from reverie.learn.detection import Detection
from reverie.learn.fit import Fit, fit
from reverie.models.detector import open_detector

NAMES = ("red", "green", "blue")
SMALL = {"widths": (8, 16), "width": 16, "heads": 2, "depth": 1, "layers": 1, "queries": 6, "denoising": 8}


class Patches:
    """Rectangles of one colour on black, none to two of them."""

    def __init__(self, num, height=32, width=32):
        self.num, self.height, self.width = num, height, width

    def iterate(self, start):
        while True:
            rng = np.random.default_rng(start)
            images = np.zeros((self.num, 3, self.height, self.width), np.uint8)
            boxes, names = [], []
            for image in images:
                boxes.append([])
                names.append([])
                for half in range(rng.integers(3)):
                    x0, y0 = half * self.width // 2 + rng.integers(1, 4), rng.integers(1, self.height // 2)
                    x1, y1 = x0 + rng.integers(6, self.width // 2 - 4), y0 + rng.integers(6, self.height // 2)
                    colour = rng.integers(3)
                    image[colour, y0:y1, x0:x1] = 255
                    boxes[-1].append([x0, y0, x1, y1])
                    names[-1].append(NAMES[colour])
            yield {
                "images": torch.from_numpy(images),
                "boxes": [torch.tensor(some, dtype=torch.float32).reshape(-1, 4) for some in boxes],
                "names": names,
            }
            start += 1


class Listener(torch.nn.Module):
    """Keeps what it is given."""

    def forward(self, pixel_values, labels):
        self.pixels, self.labels = pixel_values, labels
        zero = torch.zeros(())
        return type(
            "Output", (), {"loss": zero, "loss_dict": dict.fromkeys(["loss_vfl", "loss_bbox", "loss_giou"], zero)}
        )


@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
def test_boxes_lie_on_the_pixels_that_the_net_sees(size):
    """Resized and mirrored alike; read off the pixels with loops."""
    torch.manual_seed(0)
    net, batch = Listener(), next(Patches(16, *size).iterate(0))
    Detection(NAMES, image_size=32, **SMALL).losses(net, batch)
    mirrored = 0
    for pixels, label, names, boxes in zip(net.pixels, net.labels, batch["names"], batch["boxes"], strict=True):
        assert [NAMES[number] for number in label["class_labels"]] == names
        assert label["boxes"].shape == (len(names), 4)
        for (x, y, width, height), name in zip((label["boxes"] * 32).tolist(), names, strict=True):
            if names.count(name) > 1:
                continue
            rows, columns = np.nonzero(pixels[NAMES.index(name)].numpy() > 0.5)
            tight = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(tight, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), atol=1)
        if len(names):
            centre = float((boxes[0, 0] + boxes[0, 2]) / 2 / size[1])
            mirrored += abs(float(label["boxes"][0, 0]) - centre) > 1e-6
    assert 2 < mirrored < 14
    Detection(NAMES, image_size=32, flip=False, **SMALL).losses(net, batch)
    for label, boxes in zip(net.labels, batch["boxes"], strict=True):
        torch.testing.assert_close(label["boxes"][:, 0], (boxes[:, 0] + boxes[:, 2]) / 2 / size[1])


def test_learns_and_its_folder_finds_the_same(tmp_path):
    learner, batches = Detection(NAMES, image_size=32, **SMALL), Patches(16)
    settings = Fit(steps=40, lr=5e-3, warmup_steps=4, weight_decay=0.01, clip=1.0)
    net, _ = fit(learner, batches, settings, tmp_path, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.7 * np.mean([row["loss"] for row in rows[:5]])
    assert rows[-1].keys() == {"step", "lr", "loss", "name", "box", "giou"}
    learner.save(net, tmp_path / "weights")

    images = next(batches.iterate(1000))["images"]
    with torch.no_grad():
        expected = net(pixel_values=learner.pixels(images))
        public = AutoModelForObjectDetection.from_pretrained(tmp_path / "weights").eval()
        assert type(public).__name__ == "RTDetrForObjectDetection"
        processor = AutoImageProcessor.from_pretrained(tmp_path / "weights", backend="pil")
        pixels = processor(images=list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt")
        found = public(**pixels)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=0)
    assert open_detector(str(tmp_path / "weights")).names == NAMES


def test_pictures_without_any_object():
    learner = Detection(NAMES, image_size=32, **SMALL)
    torch.manual_seed(0)
    net = learner.build().train()
    batch = {
        "images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "boxes": [torch.empty(0, 4)] * 2,
        "names": [[], []],
    }
    losses = learner.losses(net, batch)
    assert losses["box"] == losses["giou"] == 0
    losses["loss"].backward()
    assert losses["loss"].isfinite()


def test_names_of_denoised_boxes_tell_nothing():
    """A net that is shown nothing but noised boxes could otherwise read their names off the names."""
    learner = Detection(tuple(map(str, range(50))), image_size=32, **SMALL)
    torch.manual_seed(0)
    net = learner.build().train()
    given = []
    net.model.denoising_class_embed.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    boxes = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    images = torch.zeros(32, 3, 32, 32, dtype=torch.uint8)
    learner.losses(net, {"images": images, "boxes": [boxes] * 32, "names": [["7"]] * 32})
    assert (given[0] == 7).float().mean() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ()}, "names"),
        ({"names": ("a", "a")}, "each of them once"),
        ({"levels": 1}, "levels is 1"),
        ({"levels": 4}, "no more than the 3 widths"),
        ({"image_size": 40}, "divide by 16"),
        ({"queries": 81}, "have 80 places"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        Detection(**{"names": NAMES} | options)
