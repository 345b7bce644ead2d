import copy
import math

import pytest
import torch
import transformers

from reverie.errors import InputError, ModelError
from reverie.nets.gated_cross_attention import decoder_layers
from reverie.nets.token_captioner import LookShape, TokenCaptionNet, lookup, token_loss

GRID, CODES = (2, 3), 12
SMALL = {"vocab_size": 20, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES = {
    "gpt2": lambda: transformers.GPT2Config(n_positions=32, n_embd=16, n_layer=3, n_head=2, **SMALL),
    "llama": lambda: transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, **SMALL
    ),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=16, word_embed_proj_dim=8, ffn_dim=24, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0, **SMALL,
    ),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, **SMALL
    ),
}  # fmt: skip


def language(family="gpt2"):
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())


def net_of(family="gpt2", **shape):
    model = language(family)
    torch.manual_seed(2)
    shape = LookShape(**{"width": 8, "latents": 4, "layers": 2, "heads": 2, "max_tokens": 6, **shape})
    return TokenCaptionNet(model, [2], 3, torch.randn(CODES, 5), GRID, shape)


def opened(net):
    """Gates at random, as after some training."""
    for name, weight in net.named_parameters():
        if name.endswith("gate"):
            weight.data.fill_(1.0)
    return net


def batch(rows=3, length=5):
    torch.manual_seed(3)
    tokens = torch.randint(0, CODES, (rows, *GRID))
    ids = torch.randint(4, 20, (rows, length))
    mask = (torch.arange(length)[None] < torch.tensor([[length], [length - 2], [1]])[:rows]).long()
    return tokens, ids, mask


@pytest.mark.parametrize("family", FAMILIES)
def test_before_training_the_model_says_what_its_language_model_says(family):
    net = net_of(family).eval()
    tokens, ids, mask = batch()
    begin = torch.full((3, 1), 2)
    seen = torch.cat([torch.ones_like(begin), mask[:, :-1]], 1)
    plain = language(family).eval()(input_ids=torch.cat([begin, ids[:, :-1]], 1), attention_mask=seen).logits
    assert torch.equal(net(tokens, ids, mask), plain)
    assert not torch.allclose(opened(net)(tokens, ids, mask), plain, atol=1e-3)  # and looks once its gates are open


@pytest.mark.parametrize("mode", ["gated", "prefix"])
def test_only_what_looks_learns(mode):
    net = net_of(mode=mode).train()
    tokens, ids, mask = batch()
    token_loss(net(tokens, ids, mask), ids, mask).backward()
    learns = {name.split(".")[0] for name, weight in net.named_parameters() if weight.requires_grad}
    assert learns == {"reader", "resampler", {"gated": "gates", "prefix": "prefix"}[mode]}
    assert all(weight.grad is None for weight in net.language.parameters())
    assert not net.language.training
    moved = [name for name, weight in net.named_parameters() if weight.grad is not None and weight.grad.abs().sum()]
    assert any("gate" in name or "resampler" in name for name in moved)


@pytest.mark.parametrize("mode", ["gated", "prefix"])
@pytest.mark.parametrize("beams", [1, 3])
def test_images_do_not_look_at_each_other(mode, beams):
    net = opened(net_of(mode=mode)).eval()
    tokens = batch()[0]
    together = net.generate(tokens, beams)
    for row, image in enumerate(tokens):
        alone = net.generate(image[None], beams)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()
    assert together.shape[1] <= 6


def test_padding_and_a_copy_change_nothing():
    net = opened(net_of()).eval()
    tokens, ids, mask = batch()
    logits = net(tokens, ids, mask)
    alone = net(tokens[1:2], ids[1:2, :3], mask[1:2, :3])
    torch.testing.assert_close(logits[1, :3], alone[0])
    other = copy.deepcopy(net)
    for weight in other.gates.parameters():
        weight.data.zero_()
    assert torch.equal(net(tokens, ids, mask), logits)
    assert not torch.allclose(other(tokens, ids, mask), logits)


def test_language_alone_sees_no_image_afterwards():
    net = opened(net_of()).eval()
    tokens, ids, mask = batch()
    before = language().eval()(input_ids=ids).logits
    net(tokens, ids, mask)
    assert torch.equal(net.language(input_ids=ids).logits, before)


def test_loss_is_that_of_a_slow_loop():
    torch.manual_seed(4)
    _, ids, mask = batch()
    logits, weights = torch.randn(3, 5, 20), torch.tensor([1.0, 0.5, 2.0])
    total = count = 0.0
    for row in range(3):
        for place in range(5):
            if mask[row, place]:
                chances = [math.exp(value) for value in logits[row, place].tolist()]
                total -= weights[row].item() * math.log(chances[ids[row, place]] / sum(chances))
                count += weights[row].item()
    assert token_loss(logits, ids, mask, weights).item() == pytest.approx(total / count, rel=1e-5)
    assert token_loss(logits, ids, mask).item() == pytest.approx(token_loss(logits, ids, mask, torch.ones(3)).item())


def test_codes_of_any_integer_type():
    codebook = torch.randn(CODES, 5)
    tokens = batch()[0]
    for kind in (torch.int16, torch.int32, torch.uint8):
        codes = lookup(codebook, tokens.to(kind))
        assert codes.shape == (3, 5, *GRID)
        assert torch.equal(codes[1, :, 0, 2], codebook[tokens[1, 0, 2]])


def test_what_cannot_be_is_said():
    with pytest.raises(InputError, match="grid of 3 x 2 codes cannot be read by a model of 2 x 3"):
        net_of()(torch.zeros(1, 3, 2, dtype=torch.long), torch.full((1, 2), 5), torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(InputError, match="heads"):
        LookShape(width=10, heads=4)
    tower = transformers.CLIPTextConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    model = transformers.CLIPTextModel(tower)
    model.config.num_hidden_layers = 5
    with pytest.raises(ModelError, match="no causal language model whose layers"):
        decoder_layers(model)
