"""Painting with each quick way, and with all that pay, against a plain diffusers loop: same noise, same steps, PNG at the end.

    python benchmarks/painting.py [--model builtin:painter] [--copies 4] [--batch 4] [--compile] [--json]
    python benchmarks/painting.py --model random:sd15 --device cuda --dtype fp16 --compile --minutes 7

``random:sd15`` is Stable Diffusion 1.5 built from its public config, ``random:tiny`` a 64 px one of about the size of the
builtin painter; both with random weights, on which speed does not depend (what a difference of their pictures is worth, is another
matter). All ways take turns, and each ratio is taken inside a turn, so that a busy machine slows both; no turn is begun after
``--minutes``. The errors are those of pictures from the same noise against the plain ones, in levels of 255.

The last command is made for one call of eight minutes on a machine with a GPU.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from reverie import pairs
from reverie.images.pixels import PaintPixels, PaintSpeed, PaintWorker
from reverie.models.painter import DTYPES, Painter, open_painter, pick
from reverie.nets.autocast import quick_in_bf16
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


UNITS = 2  # that the captions are cut into, so that one is compressed and written while the next is painted
COMPARED = 8  # pictures whose error is told
ALL = "all that pay"


@dataclass(frozen=True)
class Way:
    """How images are painted."""

    name: str
    quick: dict[str, Any] = field(default_factory=dict)  # of ``Painter.quicken``
    plain: bool = False  # as one writes with diffusers alone
    guidance: float | None = None  # in place of the usual one
    batch: int | None = None  # in place of the usual one; 0 is found by trial, on a GPU
    dtype: str | None = None  # in place of the usual one
    against: str = "plain diffusers loop"


def ways(options: argparse.Namespace) -> list[Way]:
    """What is measured, the plain loops first."""
    cuda = options.device.startswith("cuda")
    half = "bf16" if not cuda and options.dtype == "fp32" and quick_in_bf16("cpu") else None
    last = {"channels_last": True} if cuda else {}
    best = {**last, "step_cache": options.step_cache, **({"decoder_dtype": "fp16"} if cuda else {})}
    found = [
        Way("plain diffusers loop", plain=True),
        Way("plain loop, guidance of almost 1", plain=True, guidance=1.0 + 1e-6),
        Way("PaintPixels", last),  # text once a caption, compressing and writing beside painting
        Way("without guidance", last, guidance=1.0, against="plain loop, guidance of almost 1"),
        Way("channels last", {"channels_last": True}),
        Way("contiguous", {}) if cuda else None,
        Way("decoder in half precision", {**last, "decoder_dtype": "fp16"}) if cuda else None,
        Way("batch of 16" if not cuda else "batch by trial", last, batch=0 if cuda else 16),
        Way("bf16", last, dtype=half) if half else None,
        Way("step cache 2", {**last, "step_cache": 2}),
        Way("step cache 3", {**last, "step_cache": 3}),
        Way("compiled", {**last, "compiled": True}) if options.compile else None,
        Way(ALL, best, batch=0 if cuda else 16, dtype=half),
    ]
    return [way for way in found if way is not None]


def open_one(options: argparse.Namespace, way: Way) -> Painter:
    """A painter of its own, with the same weights as all others."""
    dtype = way.dtype or options.dtype
    if options.model in SIZES:
        painter = Painter(random_pipeline(options.model).to(options.device, DTYPES[dtype]), options.model)
    else:
        painter = open_painter(options.model, options.device, dtype=dtype)
    painter.quicken(**({"channels_last": False} | way.quick))
    if not way.quick.get("channels_last"):
        for part in (painter.pipe.unet, painter.pipe.vae):
            torch.nn.Module.to(part, memory_format=torch.contiguous_format)
    return painter


def plain_loop(painter: Painter, captions: Sequence[str], options: argparse.Namespace, way: Way) -> None:
    """What one writes with diffusers alone: the texts of each batch, images out, PNG."""
    wanted = [text for text in captions for _ in range(options.copies)]
    for start in range(0, len(wanted), options.batch):
        prompt = wanted[start : start + options.batch]
        side = options.size_px or painter.size_px
        images = painter.pipe(
            prompt,
            guidance_scale=way.guidance or options.guidance,
            num_inference_steps=options.steps,
            height=side,
            width=side,
            generator=[torch.Generator().manual_seed(start + index) for index in range(len(prompt))],
        ).images
        for image in images:
            image.save(io.BytesIO(), "png")


def stage_worker(painter: Painter, options: argparse.Namespace, way: Way) -> PaintWorker:
    """The worker of PaintPixels."""
    stage = PaintPixels(
        per_caption=options.copies,
        guidance=way.guidance or options.guidance,
        steps=options.steps,
        size_px=options.size_px,
        speed=PaintSpeed(batch=options.batch if way.batch is None else way.batch),
    )
    return PaintWorker(stage, painter, StepContext(Path(), "paint", device=options.device))


def through_the_stage(worker: PaintWorker, captions: Sequence[str]) -> None:
    """The same in units, as the engine does them: the end of one beside the beginning of the next."""
    size = -(-len(captions) // UNITS)
    with ThreadPoolExecutor(1) as writer:
        units = []
        for unit, start in enumerate(range(0, len(captions), size)):
            rows = [
                {"caption_id": f"{start + place:016x}", "unit": unit, "text": text, "status": pairs.OK}
                for place, text in enumerate(captions[start : start + size])
            ]
            units.append(writer.submit(worker.begin(pairs.table(rows, pairs.CAPTIONS))))
        made = [status for unit in units for status in unit.result()["status"].to_pylist()]
    assert set(made) == {"ok"}, "some images were not painted"
    assert len(made) == len(captions) * worker.stage.per_caption


def pictures(painter: Painter, options: argparse.Namespace, way: Way) -> np.ndarray:
    """Some pictures, always from the same noise, uint8 (n, H, W, 3)."""
    count = min(COMPARED, options.captions * options.copies)
    embeddings = painter.encode(texts(count))
    side = options.size_px or painter.size_px
    made = [
        painter.paint(pick(embeddings, rows), rows, way.guidance or options.guidance, options.steps, side)
        for start in range(0, count, options.batch)
        if (rows := list(range(start, min(start + options.batch, count))))
    ]
    return np.concatenate(made)


def error(found: np.ndarray, plain: np.ndarray) -> dict[str, float | None]:
    """How far pictures are from others, in levels of 255, and as a ratio of peak to noise; that of equal ones is None."""
    far = found.astype(float) - plain.astype(float)
    square = float((far**2).mean())
    return {
        "largest difference of a pixel": int(np.abs(far).max()),
        "mean difference of a pixel": round(float(np.abs(far).mean()), 4),
        "PSNR (dB)": round(10 * math.log10(255**2 / square), 1) if square else None,
    }


def seconds(work: Callable[[], None], cuda: bool) -> tuple[float, float]:
    """Of the clock, and of this process on the CPU."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - began_cpu


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways in turns; a row each."""
    began, cuda = time.monotonic(), options.device.startswith("cuda")
    captions = texts(options.captions)
    known = ways(options)
    jobs: dict[str, Callable[[], None]] = {}
    errors: dict[str, dict[str, float | None]] = {}
    batches: dict[str, int] = {}
    shown: dict[str, np.ndarray] = {}
    for way in known:
        painter = open_one(options, way)
        shown[way.name] = pictures(painter, options, way)  # this sets things up as well
        errors[way.name] = error(shown[way.name], shown[way.against])
        if way.plain:
            jobs[way.name] = lambda painter=painter, way=way: plain_loop(painter, captions, options, way)
            batches[way.name] = options.batch
        else:
            worker = stage_worker(painter, options, way)
            through_the_stage(worker, captions[:2])  # finds the batch, where that is by trial
            batches[way.name] = worker.batch
            jobs[way.name] = lambda worker=worker: through_the_stage(worker, captions)
        if way.quick.get("compiled"):
            jobs[way.name]()  # compiles for the shapes of all batches
    times: dict[str, list[tuple[float, float]]] = {way.name: [] for way in known}
    for turn in range(options.turns):
        if turn and time.monotonic() - began > 60 * options.minutes * (turn / (turn + 1)):
            break  # another turn would go beyond
        for way in known if turn % 2 == 0 else known[::-1]:
            times[way.name].append(seconds(jobs[way.name], cuda))
    images = options.captions * options.copies
    rows = []
    for way in known:
        turns = list(zip(times[way.against], times[way.name], strict=True))
        ratios = [plain[0] / ours[0] for plain, ours in turns]
        row: dict[str, Any] = {
            "way": way.name,
            "images/s": round(images / statistics.median(ours[0] for _, ours in turns), 3),
            "batch": batches[way.name],
        }
        if not way.plain:
            row |= {"ratio": round(statistics.median(ratios), 3), "of each turn": [round(ratio, 2) for ratio in ratios]}
            if not cuda:  # what other processes on the machine do not blur
                row["ratio in CPU seconds"] = round(statistics.median(plain[1] / ours[1] for plain, ours in turns), 3)
            row |= errors[way.name]
        rows.append(row)
    rows[0] |= {
        "model": options.model,
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "dtype": options.dtype,
        "size px": options.size_px or painter.size_px,
        "images": images,
        "copies": options.copies,
        "steps": options.steps,
        "turns": len(times[ALL]),
        "seconds in all": round(time.monotonic() - began),
    }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="builtin:painter", help="builtin:NAME, folder, Hub id, random:tiny, random:sd15"
    )
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--copies", type=int, default=4, help="images of each caption")
    parser.add_argument("--batch", type=int, default=4, help="images painted together")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--size-px", type=int, default=None)
    parser.add_argument("--step-cache", type=int, default=2, help="of all that pay")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too, which takes minutes")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=7.0, help="no turn that would go beyond is begun")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.captions < UNITS:
        parser.error(f"--captions {options.captions}: give {UNITS} or more, as they are painted in {UNITS} units")
    rows = measure(options)
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print()
        for name, value in row.items():
            print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
