"""Painting through PaintPixels against a plain diffusers loop: same pipeline, same batches, same steps, PNG at the end.

    python benchmarks/painting.py [--model builtin:painter] [--copies 4] [--batch 4] [--json]
    python benchmarks/painting.py --model random:sd15 --device cuda --dtype fp16 --captions 32 --copies 8 --batch 8

``random:sd15`` is Stable Diffusion 1.5 built from its public config, ``random:tiny`` a 64 px one of about the size of the
builtin painter; both with random weights, on which speed does not depend. The two ways take turns, and the ratio is taken
inside each turn, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from reverie import pairs
from reverie.images.pixels import PaintPixels, PaintSpeed, PaintWorker
from reverie.models.painter import DTYPES, Painter, open_painter
from reverie.stage import StepContext

SIZES: dict[str, dict[str, Any]] = {
    "random:tiny": {"side": 8, "unet": (64, 96, 128), "vae": (16, 32, 64, 64), "text": (128, 2), "heads": 4},
    "random:sd15": {
        "side": 64,
        "unet": (320, 640, 1280, 1280),
        "vae": (128, 256, 512, 512),
        "text": (768, 12),
        "heads": 8,
    },
}


def texts(count: int) -> list[str]:
    """Short captions that the small world could have written."""
    colours = ("red", "green", "blue", "yellow", "purple", "orange")
    shapes = ("circle", "square", "triangle", "star")
    made = (
        f"a {one} {shape} on a {other} background" for one, other, shape in itertools.product(colours, colours, shapes)
    )
    return list(itertools.islice(itertools.cycle(made), count))


def random_pipeline(name: str) -> StableDiffusionPipeline:
    """A Stable Diffusion of the given size with random weights, on the CPU."""
    size = SIZES[name]
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    width, layers = size["text"]
    channels, levels = size["unet"], len(size["unet"])
    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=size["vae"],
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=min(32, size["vae"][0]),
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                eos_token_id=2,
            )
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=words,
            model_max_length=77,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
        ),
        unet=UNet2DConditionModel(
            sample_size=size["side"],
            block_out_channels=channels,
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            cross_attention_dim=width,
            attention_head_dim=size["heads"],
        ),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def plain_loop(painter: Painter, captions: list[str], options: argparse.Namespace) -> None:
    """What one writes with diffusers alone: the texts of each batch, images out, PNG."""
    wanted = [text for text in captions for _ in range(options.copies)]
    for start in range(0, len(wanted), options.batch):
        prompt = wanted[start : start + options.batch]
        side = options.size_px or painter.size_px
        images = painter.pipe(
            prompt,
            guidance_scale=options.guidance,
            num_inference_steps=options.steps,
            height=side,
            width=side,
            generator=[torch.Generator().manual_seed(start + index) for index in range(len(prompt))],
        ).images
        for image in images:
            image.save(io.BytesIO(), "png")


def through_the_stage(painter: Painter, captions: list[str], options: argparse.Namespace) -> None:
    """The same through the worker of PaintPixels."""
    stage = PaintPixels(
        per_caption=options.copies,
        guidance=options.guidance,
        steps=options.steps,
        size_px=options.size_px,
        speed=PaintSpeed(batch=options.batch),
    )
    rows = [
        {"caption_id": f"{number:016x}", "unit": 0, "text": text, "status": pairs.OK}
        for number, text in enumerate(captions)
    ]
    made = PaintWorker(stage, painter, StepContext(Path(), "paint"))(pairs.table(rows, pairs.CAPTIONS))
    assert made.num_rows == len(captions) * options.copies
    assert made["status"].to_pylist().count("ok") == made.num_rows, "some images were not painted"


def seconds(work: Callable[..., None], *given: Any) -> tuple[float, float]:
    """Of the clock, and of this process on the CPU."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work(*given)
    return time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="builtin:painter", help="builtin:NAME, folder, Hub id, random:tiny, random:sd15"
    )
    parser.add_argument("--captions", type=int, default=16)
    parser.add_argument("--copies", type=int, default=4, help="images of each caption")
    parser.add_argument("--batch", type=int, default=4, help="images painted together")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--size-px", type=int, default=None)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()

    if options.model in SIZES:
        pipe = random_pipeline(options.model).to(options.device, DTYPES[options.dtype])
        painter = Painter(pipe, options.model)
    else:
        painter = open_painter(options.model, options.device, dtype=options.dtype)
    captions = texts(options.captions)
    ways = {"plain diffusers loop": plain_loop, "PaintPixels": through_the_stage}
    for work in ways.values():
        work(painter, captions[:1], options)  # first calls set things up
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(options.turns):
        for name in sorted(ways, reverse=turn % 2 == 1):
            times[name].append(seconds(ways[name], painter, captions, options))

    images = options.captions * options.copies
    turns = list(zip(times["plain diffusers loop"], times["PaintPixels"], strict=True))
    ratios = [plain[0] / ours[0] for plain, ours in turns]
    on_gpu = options.device.startswith("cuda")
    result = {
        "model": painter.revision,
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "dtype": options.dtype,
        "size_px": options.size_px or painter.size_px,
        "images": images,
        "copies": options.copies,
        "batch": options.batch,
        "steps": options.steps,
        "turns": options.turns,
        "plain diffusers loop (images/s)": round(images / statistics.median(plain[0] for plain, _ in turns), 3),
        "PaintPixels (images/s)": round(images / statistics.median(ours[0] for _, ours in turns), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio, smallest turn": round(min(ratios), 3),
        "ratio, largest turn": round(max(ratios), 3),
    }
    if not on_gpu:  # what other processes on the machine do not blur
        result["ratio in CPU seconds"] = round(statistics.median(plain[1] / ours[1] for plain, ours in turns), 3)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
