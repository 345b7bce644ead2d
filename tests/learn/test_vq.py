"""The tokenizer's learner: its loss against a loop, the library's quantiser, and two colours that become two codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from diffusers.models.autoencoders.vae import VectorQuantizer

from reverie.errors import InputError
from reverie.learn.fit import Fit, fit
from reverie.learn.vq import Quantiser, Quantising, nearest
from reverie.models.names import builtin_folder

SMALL = Quantiser(channels=(8, 8), codes=6, width=3, restart_below=0.0, image_size=8)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def built(learner: Quantiser) -> Quantising:
    torch.manual_seed(1)
    net = learner.build()
    assert isinstance(net, Quantising)
    return net


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_the_loss_is_that_of_a_loop_over_places_and_codes(codebook: str) -> None:
    learner = Quantiser(**{**SMALL.__dict__, "codebook": codebook, "commitment": 0.7})
    net = built(learner).eval()
    net.vq.quantize.embedding.weight.data.normal_()
    batch = {"images": images(3)}
    told = learner.losses(net, batch)

    pixels = batch["images"].float() / 255
    with torch.no_grad():
        vectors = net.vq.encode(pixels).latents
        book = net.vq.quantize.embedding.weight
        codes, apart = torch.empty_like(vectors), 0.0
        for picture in range(3):
            for row in range(4):
                for column in range(4):
                    vector = vectors[picture, :, row, column]
                    far = [float(((vector - code) ** 2).sum()) for code in book]
                    codes[picture, :, row, column] = book[far.index(min(far))]
                    apart += min(far)
        apart /= vectors.numel()
        painted = net.vq.decoder(net.vq.post_quant_conv(codes))
        error = 2 * (painted - pixels)
        expected = error.abs().mean() + 4 * (error**2).mean() + (1.7 if codebook == "loss" else 0.7) * apart
    assert told["commitment"].item() == pytest.approx(apart, rel=1e-4)
    assert told["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_ids_codes_and_loss_are_those_of_the_librarys_quantiser() -> None:
    learner = Quantiser(**{**SMALL.__dict__, "codebook": "loss"})
    net = built(learner).eval()
    theirs = VectorQuantizer(6, 3, beta=0.25, legacy=False)
    theirs.embedding.weight.data.copy_(net.vq.quantize.embedding.weight.data.normal_())
    out = net(images(4).float() / 255)
    passed, loss, (_, _, ids) = theirs(out.vectors)
    assert torch.equal(ids.view(4, 4, 4), out.ids)
    torch.testing.assert_close(passed, out.codes)
    ours = (
        0.25 * (out.vectors - out.codes.detach()).square().mean() + (out.codes - out.vectors.detach()).square().mean()
    )
    torch.testing.assert_close(ours, loss)
    assert torch.equal(nearest(torch.eye(3), torch.eye(3)), torch.arange(3))


def test_the_gradient_passes_straight_through_to_the_encoder() -> None:
    """What the decoder wants of a code is what the encoder is told, as if nothing had been replaced."""
    net = built(SMALL).eval()
    out = net(images(2).float() / 255)
    out.vectors.retain_grad()
    (out.painted * torch.linspace(0, 1, 8)).sum().backward()
    codes = out.codes.detach().requires_grad_()
    (net.vq.decoder(net.vq.post_quant_conv(codes)) * torch.linspace(0, 1, 8)).sum().backward()
    torch.testing.assert_close(out.vectors.grad, codes.grad, atol=1e-3, rtol=1e-2)
    assert net.vq.quantize.embedding.weight.grad is None


def test_codes_are_the_averages_of_the_vectors_that_chose_them() -> None:
    net = built(Quantiser(**{**SMALL.__dict__, "decay": 0.5}))
    start = net.vq.quantize.embedding.weight.data.normal_().clone()
    net.counts.fill_(2.0)
    net.sums.copy_(2 * start)
    flat = torch.randn(10, 3)
    ids = nearest(flat, start)
    net._count(flat, ids)
    for code in range(6):
        chose = flat[ids == code]
        average = (2 * start[code] + chose.sum(0)) / (2 + len(chose))
        torch.testing.assert_close(net.vq.quantize.embedding.weight[code].detach(), average)


def test_a_code_that_nobody_chooses_begins_anew_at_a_vector_of_the_batch() -> None:
    net = built(Quantiser(**{**SMALL.__dict__, "restart_below": 0.1}))
    book = net.vq.quantize.embedding.weight.data.fill_(50.0)
    book[:2] = torch.randn(2, 3)
    net.counts.fill_(1e-4)
    net.counts[:2] = 5.0
    net.sums.copy_(net.counts[:, None] * book)
    flat = torch.randn(12, 3)
    net._count(flat, nearest(flat, book.clone()))
    for code in book[2:]:
        assert (flat == code).all(1).any()
    # It is given the count of an even use, so that it is not taken away again before it had its time.
    assert net.counts[2:].tolist() == [2.0] * 4
    net.steps.fill_(net.restart_steps)
    book.fill_(50.0)
    net.counts.fill_(1e-4)
    net.sums.copy_(net.counts[:, None] * book)
    net._count(flat[:1], torch.zeros(1, dtype=torch.long))
    assert (book[1:] > 40).all(), "late in training they are left as they are"


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_it_learns_to_tell_colours_and_goes_on_after_a_stop_as_if_there_had_been_none(
    tmp_path: Path, codebook: str
) -> None:
    class Flat:
        def iterate(self, start: int):  # type: ignore[no-untyped-def]
            while True:
                which = torch.tensor([(start + place) % 2 for place in range(4)])
                colours = torch.tensor([[220, 20, 20], [20, 20, 220]], dtype=torch.uint8)[which]
                yield {"images": colours[:, :, None, None].expand(4, 3, 8, 8).contiguous()}
                start += 1

    learner = Quantiser((16, 16), codes=4, width=4, codebook=codebook, image_size=8)  # type: ignore[arg-type]
    settings = Fit(steps=80, lr=5e-3, warmup_steps=5, schedule="constant", weight_decay=0, ema=0.9)
    whole = fit(learner, Flat(), settings, tmp_path / "whole", seed=1)
    learner.save(whole.net, tmp_path / "vq")
    vq = VQModel.from_pretrained(tmp_path / "vq")
    batch = next(Flat().iterate(0))["images"].float() / 255
    ids = vq.quantize(vq.encode(batch).latents)[2][2].view(4, 16)
    assert ids[0].tolist() == ids[2].tolist() != ids[1].tolist()
    painted = vq.decode(ids[:2].view(2, 4, 4), force_not_quantize=True, shape=(2, 4, 4, 4)).sample.mean((2, 3))
    assert painted[0, 0] > painted[0, 2] + 0.3
    assert painted[1, 2] > painted[1, 0] + 0.3

    class Stopped(Flat):
        def iterate(self, start: int):  # type: ignore[no-untyped-def]
            for position, each in enumerate(super().iterate(start)):
                if start + position == 40:
                    raise ConnectionError("gone")
                yield each

    every = Fit(**{**settings.__dict__, "speed": settings.speed.__class__(checkpoint_every_s=0)})
    with pytest.raises(ConnectionError):
        fit(learner, Stopped(), every, tmp_path / "stopped", seed=1)
    again = fit(learner, Flat(), every, tmp_path / "stopped", seed=1)
    assert again.losses == whole.losses


def test_a_codebook_without_choice_is_refused() -> None:
    with pytest.raises(InputError, match="2 codes or more"):
        Quantiser(codes=1)
    with pytest.raises(InputError, match="below 1"):
        Quantiser(decay=1.0)


@pytest.fixture
def autoencoder(tmp_path: Path) -> AutoencoderKL:
    torch.manual_seed(3)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    vae.save_pretrained(tmp_path / "vae")
    return vae


def test_it_begins_from_the_outer_blocks_of_an_autoencoder(autoencoder: AutoencoderKL, tmp_path: Path) -> None:
    learner = Quantiser(channels=(8, 16, 16), codes=6, width=3, image_size=8, start=str(tmp_path / "vae"), outer=False)
    net = built(learner)
    assert net.vq.encoder.conv_in.weight.dtype == torch.float32
    pixels = torch.rand(2, 3, 8, 8)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # what stands about a picture is 0 for both
    with torch.no_grad():
        assert torch.allclose(
            net.vq.encoder.conv_in(pixels)[inside], autoencoder.encoder.conv_in(2 * pixels - 1)[inside], atol=1e-5
        )
        features = torch.randn(2, 16, 4, 4)
        theirs, ours = features, features
        for known, block in zip(autoencoder.decoder.up_blocks, net.vq.decoder.up_blocks[1:], strict=True):
            theirs, ours = known(theirs), block(ours)
        theirs = autoencoder.decoder.conv_out(autoencoder.decoder.conv_norm_out(theirs))
        ours = net.vq.decoder.conv_out(net.vq.decoder.conv_norm_out(ours))
    assert torch.allclose(2 * ours - 1, theirs, atol=1e-5)

    learner.losses(net.train(), {"images": images(4)})["loss"].backward()
    still = {name for name, value in net.vq.named_parameters() if value.grad is None}
    assert "encoder.conv_in.weight" in still
    assert "decoder.conv_out.weight" in still
    assert not any(name.startswith(("encoder.down_blocks.2", "encoder.mid", "decoder.up_blocks.0")) for name in still)
    assert "encoder.down_blocks.1.downsamplers.0.conv.weight" not in still  # the autoencoder ends before it
    assert all(
        value.requires_grad for value in built(Quantiser(**{**learner.__dict__, "outer": True})).vq.encoder.parameters()
    )


def test_it_begins_from_the_autoencoder_of_a_pipeline_too() -> None:
    both = [
        built(Quantiser(channels=(16, 32, 64, 64), start=start))
        for start in ("builtin:painter", str(builtin_folder("painter") / "vae"))
    ]
    first, second = (net.vq.encoder.down_blocks[0].state_dict() for net in both)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_autoencoder_of_other_blocks_is_refused(autoencoder: AutoencoderKL, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"blocks of \(8, 16\) channels"):
        Quantiser(channels=(8, 8, 8), start=str(tmp_path / "vae")).build()
    with pytest.raises(InputError, match="give start"):
        Quantiser(outer=False)
