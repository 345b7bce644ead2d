import torch
from torch import nn

from reverie.nets.heads import ProjectionHead


def test_the_head_is_the_papers():
    head = ProjectionHead(8, 16, 4)
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert head[-1].bias is not None
    assert [head[index].out_features for index in (0, 3, 6)] == [16, 16, 4]


def test_groups_do_not_mix():
    head = ProjectionHead(8, 16, 4)
    rows = torch.randn(12, 8)
    first = head.by_group(rows, 3)
    rows[4:] = torch.randn(8, 8)
    torch.testing.assert_close(head.by_group(rows, 3)[:4], first[:4])
    assert not torch.allclose(head.by_group(rows, 1)[:4], first[:4])
