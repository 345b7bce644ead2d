"""A widened U-Net says what the old one said, and its copies learn to differ."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from reverie.errors import InputError
from reverie.models.names import builtin_folder
from reverie.nets.widen import widen


def unet(channels: tuple[int, ...] = (8, 16, 16), layers: int = 1) -> UNet2DConditionModel:
    torch.manual_seed(1)
    net = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=channels, layers_per_block=layers,
        down_block_types=["DownBlock2D", *["CrossAttnDownBlock2D"] * (len(channels) - 1)],
        up_block_types=[*["CrossAttnUpBlock2D"] * (len(channels) - 1), "UpBlock2D"],
        cross_attention_dim=12, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    for weight in net.parameters():  # norms and biases that are not 1 and 0, as in a trained net
        torch.nn.init.normal_(weight, mean=0.5 if weight.ndim == 1 else 0.0, std=0.2)
    return net.eval()


@torch.no_grad()
def outputs(*nets: UNet2DConditionModel) -> list[torch.Tensor]:
    torch.manual_seed(2)
    noisy, times, words = torch.randn(3, 2, 8, 8), torch.tensor([3, 500, 999]), torch.randn(3, 5, 12)
    return [net.eval()(noisy, times, words).sample for net in nets]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("text_time", [False, True])
@pytest.mark.parametrize("times", [2, 4])
def test_all_levels_alike_keep_the_function(layers: int, text_time: bool, times: int) -> None:
    old = unet((8, 16), layers)
    new = widen(old, (8 * times, 16 * times), text_time)
    assert tuple(new.config.block_out_channels) == (8 * times, 16 * times)
    said, before = outputs(new, old)
    torch.testing.assert_close(said, before, atol=1e-5 * float(before.abs().max()), rtol=0)


@torch.no_grad()
def test_some_levels_keep_what_the_shipped_one_says_nearly() -> None:
    old = UNet2DConditionModel.from_pretrained(builtin_folder("painter") / "unet").float()
    fine, middle, coarse = old.config.block_out_channels
    torch.manual_seed(2)
    new = widen(old, (2 * fine, 2 * middle, coarse), True)
    noisy, times, words = torch.randn(2, 4, 16, 16), torch.tensor([500, 800]), torch.randn(2, 9, 128)
    said, before = (net.eval()(noisy, times, words).sample for net in (new, old))
    assert 0 < float((said - before).std() / before.std()) < 0.2


def test_copies_differ_in_what_they_learn() -> None:
    new = widen(unet((8, 16)), (16, 32))
    outgoing = new.conv_out.weight.detach()
    assert not torch.allclose(outgoing[:, 0::2], outgoing[:, 1::2], rtol=0.01)


def test_the_caption_reaches_the_time_embedding_once_it_is_trained() -> None:
    new = widen(unet((8, 16)), (8, 16), text_time=True)
    (before,) = outputs(new)
    new.add_embedding.norm2.weight.data.fill_(0.1)
    assert not torch.allclose(outputs(new)[0], before)


def test_channels_must_be_multiples() -> None:
    with pytest.raises(InputError, match=r"cannot be widened to \(12, 16\)"):
        widen(unet((8, 16)), (12, 16))
    with pytest.raises(InputError, match="multiple of each"):
        widen(unet((8, 16)), (16, 32, 64))
