import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from reverie.errors import InputError, ModelError
from reverie.nets.backbones import build_backbone, center_square, load_backbone, represent, save_backbone, width


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
    with pytest.raises(ModelError, match="cannot load a backbone"):
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
