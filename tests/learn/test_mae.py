import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, ViTModel

from reverie.errors import InputError, ModelError
from reverie.learn import views
from reverie.learn.fit import Fit, fit
from reverie.learn.mae import MAE
from reverie.models.backbones import build_backbone, load_backbone, represent, save_backbone
from reverie.models.encoder import open_backbone

LEARNER = MAE("vit-tiny", 32, decoder_width=32, decoder_layers=1, decoder_heads=2)


def test_the_loss_is_that_of_a_slow_reference(pictures):
    """Patch by patch: squared error against its pixels with mean 0 and variance 1, over hidden patches alone."""
    torch.manual_seed(0)
    net = LEARNER.build()
    images = next(pictures(2, 1).iterate(0))["images"]
    torch.manual_seed(1)
    loss = LEARNER.losses(net, {"images": images})["loss"]
    torch.manual_seed(1)
    pixels = views.light(images, 32, 0.2)
    with torch.no_grad():
        output = net(pixel_values=pixels)
    assert output.mask.sum(1).tolist() == [12, 12]  # of 16 patches
    errors = []
    for image in range(2):
        for patch in range(16):
            if not output.mask[image, patch]:
                continue
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            truth = (
                pixels[image, :, top : top + 8, left : left + 8].permute(1, 2, 0).flatten()
            )  # pixel by pixel, 3 colours each
            mean = sum(truth.tolist()) / 192
            variance = sum((value - mean) ** 2 for value in truth.tolist()) / 191
            guess = output.logits[image, patch]
            errors.append(float(((guess - (truth - mean) / (variance + 1e-6) ** 0.5) ** 2).mean()))
    assert float(loss.detach()) == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_its_usual_settings_are_the_papers():
    """Table 8 and section 4 of arXiv:2111.06377: three quarters hidden, a decoder of 8 blocks of width 512, targets normalised."""
    learner = MAE()
    assert (learner.backbone, learner.image_size, learner.masked, learner.min_area) == ("vit-b16", 224, 0.75, 0.2)
    with torch.device("meta"):
        config = learner.build().config
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers, config.decoder_num_attention_heads) == (
        512,
        8,
        16,
    )
    assert (config.mask_ratio, config.norm_pix_loss, config.decoder_intermediate_size) == (0.75, True, 2048)


def test_the_decoder_knows_where_a_patch_is():
    """As transformers leaves it, it draws all hidden patches of an image alike and can never learn better."""
    net = LEARNER.build().eval()
    with torch.no_grad():
        output = net(pixel_values=torch.randn(1, 3, 32, 32))
    hidden = output.logits[0][output.mask[0].bool()]
    assert float((hidden - hidden[0]).abs().max()) > 1e-2
    assert not any(
        weight.requires_grad for weight in (net.decoder.decoder_pos_embed, net.vit.embeddings.position_embeddings)
    )


def test_it_learns_where_pixels_are(tmp_path):
    class OnePicture:
        """Noise, so that nothing but the place of a hidden patch says what is in it."""

        def iterate(self, start):
            image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
            while True:
                yield {"images": image.repeat(8, 1, 1, 1)}

    learner = dataclasses.replace(LEARNER, min_area=1.0, decoder_width=64)
    fit(learner, OnePicture(), Fit(40, 5e-3), tmp_path, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    # Drawing all patches alike gets no further than 0.93; it is the flips that keep this from being nearer to 0.
    assert sum(row["loss"] for row in rows[-5:]) / 5 < 0.85


def test_the_encoder_is_saved_as_a_plain_vit_that_sees_all_patches(pictures, tmp_path):
    net, losses = fit(LEARNER, pictures(8, 1), Fit(2, 1e-3), tmp_path / "fit", seed=0)
    assert losses["loss"] > 0
    LEARNER.save(net, tmp_path / "weights")
    loaded = load_backbone(tmp_path / "weights")
    assert type(loaded) is ViTModel
    assert type(AutoModel.from_pretrained(tmp_path / "weights")) is ViTModel
    assert open_backbone(str(tmp_path / "weights")).features(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 128)
    images = next(pictures(3, 1).iterate(9))["images"]
    net.config.mask_ratio = net.vit.config.mask_ratio = 0.0
    with torch.no_grad():
        # Unmasked, ViTMAE sees the same patches in a random order, which attention does not mind.
        expected = net.vit(pixel_values=views.plain(images, 32)).last_hidden_state[:, 0]
        torch.testing.assert_close(represent(loaded, images), expected, atol=1e-5, rtol=1e-4)


def test_it_begins_from_the_weights_given(tmp_path):
    torch.manual_seed(1)
    plain = build_backbone("vit-tiny", 32)
    save_backbone(plain, tmp_path / "vit")
    net = dataclasses.replace(LEARNER, start=tmp_path / "vit").build()
    for name, value in net.vit.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    save_backbone(build_backbone("resnet-tiny", 32), tmp_path / "resnet")
    with pytest.raises(ModelError, match="resnet is a ResNetModel, which cannot start a ViTModel"):
        dataclasses.replace(LEARNER, start=tmp_path / "resnet").build()


@pytest.mark.parametrize("masked", [0.0, 1.0, -0.5, 1.5])
def test_a_share_outside_0_and_1_is_refused(masked):
    with pytest.raises(InputError, match="above 0 and below 1"):
        dataclasses.replace(LEARNER, masked=masked)


def test_slips_are_named():
    with pytest.raises(InputError, match="plain ViT, and resnet-tiny is a ResNetModel"):
        dataclasses.replace(LEARNER, backbone="resnet-tiny").build()
    with pytest.raises(InputError, match="of 16 patches none would be seen"):
        dataclasses.replace(LEARNER, masked=0.99).build()
    with pytest.raises(InputError, match="of 16 patches none would be hidden"):
        dataclasses.replace(LEARNER, masked=1e-20).build()
    with pytest.raises(InputError, match="decoder_width 30"):
        dataclasses.replace(LEARNER, decoder_width=30, decoder_heads=4)
