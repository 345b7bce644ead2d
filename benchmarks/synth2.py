"""Painted images as tokens against pictures of the same ids: generation, training on what is painted, training from a store.

    python benchmarks/synth2.py [--painter random:builtin] [--batch 4] [--warm-up 20] [--timed 100] [--no-memory] [--json]
    python benchmarks/synth2.py --painter random:amused --language-model gpt2 --device cuda --dtype bf16
    python benchmarks/synth2.py --painter amused/amused-256 --language-model gpt2 --guidance 10 --sampler-steps 12 --device cuda

``random:builtin`` has the sizes of the small world's token painter and tokenizer, ``random:amused`` those of aMUSEd for 256 px; both with
random weights, on which speed does not depend. How many ids come back, and how large a picture is, says only a painter that has learned.
The protocol is that of ``reverie evaluate cost``: both ways take turns step by step, ratios are pixels / tokens, medians over steps. The
paper tells 25 % less time, or 25 % more images, in embedding space (arXiv:2403.07750), without saying of what; 1.25 stands beside ours.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
from transformers.utils import logging

from reverie.builtin.train import TOKEN_PAINTER, TOKENIZER
from reverie.evaluate.cost import KINDS, PAPER, CostSettings, measure_cost, small_world
from reverie.learn.text_to_tokens import TextToTokens
from reverie.models.pretrained import load_tokenizer_of

WORDS = "builtin:clip"  # whose tokens of texts


def random_builtin(folder: Path) -> None:
    """A painter as `python -m reverie.builtin.train --only token-painter` builds it."""
    TOKENIZER.save(TOKENIZER.build(), folder / "vq")
    learner = TextToTokens(str(folder / "vq"), WORDS, text_encoder=WORDS, **TOKEN_PAINTER)
    learner.save(learner.build(), folder)


def random_amused(folder: Path) -> None:
    """A painter of aMUSEd's sizes, 16 x 16 ids of 8192 codes, from its public configs; texts are cut to the words of the small world."""
    words = load_tokenizer_of(WORDS)
    vq = VQModel(
        block_out_channels=[128, 256, 256, 512, 768],
        down_block_types=["DownEncoderBlock2D"] * 5,
        up_block_types=["UpDecoderBlock2D"] * 5,
        layers_per_block=2,
        latent_channels=64,
        num_vq_embeddings=8192,
        sample_size=256,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        force_upcast=True,
    )
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    net = UVit2DModel(
        sample_size=16
    )  # all others by default: width 1024, 22 layers, 16 heads, 8192 codes, 8256 inputs, of which the last is the mask
    pipe = AmusedPipeline(
        vqvae=vq, tokenizer=words, text_encoder=CLIPTextModelWithProjection(text), transformer=net,
        scheduler=AmusedScheduler(mask_token_id=net.config.vocab_size - 1),
    )  # fmt: skip
    pipe.save_pretrained(folder)


RANDOM = {"random:builtin": random_builtin, "random:amused": random_amused}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--painter", default="random:builtin", help=f"folder, Hub id, or {' or '.join(RANDOM)}")
    parser.add_argument("--language-model", default="builtin:writer")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--sampler-steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="images of a step")
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--timed", type=int, default=100)
    parser.add_argument("--no-memory", action="store_true", help="leave out the two processes that tell the peak")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    logging.set_verbosity_error()

    with tempfile.TemporaryDirectory() as folder:
        if asked.painter in RANDOM:
            torch.manual_seed(0)
            RANDOM[asked.painter](Path(folder))
        settings = CostSettings(
            folder if asked.painter in RANDOM else asked.painter, asked.language_model, asked.guidance, asked.sampler_steps, asked.batch,
            asked.warm_up, asked.timed, asked.dtype,
        )  # fmt: skip
        found = measure_cost(small_world(), settings, asked.device, not asked.no_memory)

    row: dict[str, Any] = {
        "painter": asked.painter, "language model": asked.language_model, "device": found.device, "dtype": asked.dtype,
        "ids": found.num_ids, "size px": found.size_px, "sampler steps": asked.sampler_steps, "batch": found.batch,
        "steps before": found.warm_up, "steps timed": found.timed,
    }  # fmt: skip
    rates = {
        "images/s": found.images_per_s,
        "training steps/s, painting for each": found.steps_per_s,
        "training steps/s, from a store": found.stored_steps_per_s,
    }
    for what, values in rates.items():
        row |= {f"{what}, {way}": round(value, 3) for way, value in values.items()}
    for way, memory in found.memory.items():
        if memory is not None:
            row[f"peak memory (MiB), {way}"] = round(memory.peak / 2**20)
            row[f"above the models (MiB), {way}"] = round(memory.above / 2**20, 1)
    if asked.painter not in RANDOM:
        row |= {f"bytes an image, {way}": round(size) for way, size in found.content_bytes.items()}
        row |= {f"bytes a pair on disk, {way}": round(size) for way, size in found.pair_bytes.items()}
        row["ids that come back (%)"] = round(100 * found.agreement, 1)
    for kind in KINDS:
        timed = getattr(found, kind)
        row[f"ratio {kind}"] = round(timed.ratio, 3)
        row[f"quartiles, {kind}"] = f"{timed.low:.3f}, {timed.high:.3f}"
        if asked.device == "cpu":  # what other processes on the machine do not blur
            row[f"in CPU seconds, {kind}"] = round(timed.cpu_ratio, 3)
    row["the paper's"] = PAPER
    if asked.json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        print(f"{name:44} {value}")


if __name__ == "__main__":
    main()
