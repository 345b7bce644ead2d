"""What a decoder is told to get right."""

import pytest
import torch

from reverie.learn.autoencoder import Autoencoder, Decoder, standing_out, to_signed


@pytest.fixture(scope="module")
def spots():
    """A gray picture with a small red spot, and the same without."""
    plain = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    spotted = plain.clone()
    spotted[:, 0, 8:11, 20:23], spotted[:, 1:, 8:11, 20:23] = 255, 0
    return plain, spotted


def test_a_small_spot_weighs_as_much_as_all_the_rest(spots):
    plain, spotted = spots
    weights = standing_out(to_signed(spotted))
    assert weights.shape == (1, 1, 32, 32)
    assert weights.mean().item() == pytest.approx(1)
    around = torch.zeros(32, 32, dtype=torch.bool)
    around[7:12, 19:24] = True  # its edge can be missed from both sides
    assert torch.equal(weights[0, 0] > 0, around)
    assert standing_out(to_signed(plain)).abs().max() == 0


def test_a_spot_that_was_missed_costs_more(spots, tmp_path):
    plain, spotted = spots
    start = Autoencoder(channels=(8, 8), latent_channels=2, image_size=32)
    start.save(start.build(), tmp_path)
    blind = to_signed(plain)
    usual, weighted = (
        Decoder(str(tmp_path), standing_out=weight).losses(lambda _: blind, {"images": spotted})
        for weight in (0.0, 3.0)
    )
    missed = (blind - to_signed(spotted)).abs()
    assert usual["loss"].item() == pytest.approx((missed + 4 * missed.square()).mean().item(), rel=1e-5)
    assert weighted["loss"] > 50 * usual["loss"]  # 25 pixels of 1,024 share a weight of 3 x 1,024
    torch.testing.assert_close(usual["psnr_db"], weighted["psnr_db"])
