"""Saying captions with a key-value cache against without one: same decoder, same captions.

python benchmarks/caption_decoding.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.learn.stablerep import load_tokenizer
from reverie.nets.captioner import CaptionNet, DecoderShape

IMAGES, DIM, TURNS = 64, 512, 3


@torch.inference_mode()
def without_cache(net: CaptionNet, feature: Tensor, tags: Tensor) -> Tensor:
    """The likeliest word each time, by reading everything said so far again: the forward pass of training, all positions of it."""
    ids = torch.zeros(len(feature), 0, dtype=torch.int64)
    for _ in range(net.max_tokens):
        asked = torch.cat([ids, torch.zeros(len(feature), 1, dtype=torch.int64)], 1)
        logits = net(feature, feature, tags, asked, torch.ones_like(asked))
        ids = torch.cat([ids, logits[:, -1].argmax(1, keepdim=True)], 1)
    return ids


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = arguments.parse_args()
    torch.manual_seed(0)
    net = CaptionNet(
        DIM, F.normalize(torch.randn(80, DIM), dim=1), DecoderShape(), load_tokenizer("builtin:clip")
    ).eval()
    net.decoder.generation_config.eos_token_id = None  # all 30 tokens, so that both do the same work
    feature, tags = F.normalize(torch.randn(IMAGES, DIM), dim=1), torch.randint(80, (IMAGES, 5))
    turns, same = [], True
    for _ in range(TURNS):
        began = time.perf_counter()
        plain = without_cache(net, feature, tags)
        middle = time.perf_counter()
        cached = net.generate(feature, feature, tags)
        turns.append((middle - began, time.perf_counter() - middle))
        same = same and bool((plain == cached).all())
    row = {
        "captions": IMAGES,
        "tokens of each": int(cached.shape[1]),
        "seconds, without cache": round(statistics.median(without for without, _ in turns), 3),
        "seconds, with cache": round(statistics.median(cached for _, cached in turns), 3),
        "same captions": same,
        "ratio": round(statistics.median(without / cached for without, cached in turns), 2),
    }
    if asked.json:
        print(json.dumps(row))
    else:
        print("\n".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
