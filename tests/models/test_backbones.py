import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from reverie.errors import InputError, ModelError
from reverie.models.backbones import (
    begin_from,
    build_backbone,
    build_classifier,
    center_square,
    load_backbone,
    represent,
    save_backbone,
    width,
)


@pytest.mark.parametrize(
    ("name", "size", "length"), [("resnet-tiny", 32, 256), ("resnet-tiny", 64, 256), ("vit-tiny", 32, 128)]
)
def test_built_backbones_go_to_disk_and_back(name, size, length, tmp_path):
    torch.manual_seed(0)
    net = build_backbone(name, size).eval()
    assert width(net) == length
    images = torch.randint(0, 256, (3, 3, size + 8, size), dtype=torch.uint8)
    save_backbone(net, tmp_path)
    with torch.no_grad():
        found = represent(net, images)
        again = represent(load_backbone(tmp_path), images)
    assert found.shape == (3, length)
    torch.testing.assert_close(found, again)


def test_a_vit_is_read_at_its_class_token_after_the_last_norm(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    net = ViTModel(config).eval()  # with the tanh pooler that represent must not use
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = net(pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(represent(net, pixels), expected)
        torch.testing.assert_close(expected.mean(1), torch.zeros(2), atol=1e-5, rtol=0)  # a LayerNorm came last
        net.save_pretrained(tmp_path)
        torch.testing.assert_close(represent(load_backbone(tmp_path), pixels), expected)


def test_a_config_folder_gives_an_untrained_net(tmp_path):
    net = build_backbone("vit-tiny", 32)
    save_backbone(net, tmp_path)
    fresh = build_backbone(str(tmp_path), 16)
    assert fresh.config.image_size == 16
    weight = "layernorm.weight"
    other = next(key for key in net.state_dict() if key.endswith("query.weight") or key.endswith("q_proj.weight"))
    assert torch.equal(fresh.state_dict()[weight], net.state_dict()[weight])
    assert not torch.equal(fresh.state_dict()[other], net.state_dict()[other])


def test_slips_are_named(tmp_path):
    with pytest.raises(InputError, match="30 pixels do not divide into patches of 8"):
        build_backbone("vit-tiny", 30)
    with pytest.raises(ModelError, match=r"no backbone .*resnet-tiny"):
        build_backbone(str(tmp_path / "missing"), 32)
    with pytest.raises(ModelError, match="holds no model"):
        load_backbone(tmp_path)
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    text = tower | {"vocab_size": 9, "eos_token_id": 3}
    CLIPModel(CLIPConfig(text_config=text, vision_config=tower | {"image_size": 32})).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a vision model"):
        load_backbone(tmp_path)


def test_center_square_keeps_the_middle():
    pixels = torch.zeros(1, 3, 20, 40)
    pixels[..., 10:30] = 1
    assert torch.equal(center_square(pixels, 20), torch.ones(1, 3, 20, 20))
    assert center_square(pixels, 10).shape == (1, 3, 10, 10)


@pytest.mark.parametrize(("name", "length"), [("resnet-50", 2048), ("vit-s16", 384), ("vit-b16", 768)])
def test_the_papers_backbones_have_their_sizes(name, length):
    with torch.device("meta"):
        net = build_backbone(name, 224)
    assert width(net) == length
    millions = sum(weight.numel() for weight in net.parameters()) / 1e6
    assert millions == pytest.approx({2048: 23.5, 384: 21.7, 768: 85.8}[length], abs=0.1)


def test_a_classifier_is_a_backbone_with_one_layer(tmp_path):
    torch.manual_seed(0)
    net = build_classifier("vit-tiny", 32, ("cat", "dog", "owl")).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        rows = represent(net.base_model, pixels)
        logits = rows @ net.classifier.weight.T + net.classifier.bias
        torch.testing.assert_close(net(pixel_values=pixels).logits, logits)
    assert net.config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_weights_of_a_classifier_start_a_backbone_and_others_do_not(tmp_path):
    torch.manual_seed(0)
    net = build_classifier("resnet-tiny", 32, ("cat", "dog"))
    save_backbone(net, tmp_path / "classifier")
    fresh = build_backbone("resnet-tiny", 32)
    begin_from(fresh, tmp_path / "classifier")
    for name, value in net.base_model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)
    with torch.device("meta"):
        begin_from(build_backbone("resnet-tiny", 32), tmp_path / "classifier")  # compared, not filled
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, patch_size=8, image_size=32
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "narrow")
    with pytest.raises(
        ModelError, match=r"narrow cannot start this ViTModel: embeddings\.cls_token is \[1, 1, 64\], not \[1, 1, 128\]"
    ):
        begin_from(build_backbone("vit-tiny", 32), tmp_path / "narrow")
    with pytest.raises(ModelError, match="narrow is a ViTModel, which cannot start a ResNetModel"):
        begin_from(fresh, tmp_path / "narrow")
