"""Small, fast pieces for the tests of learning: a word tokenizer, batches, learners of a few hundred weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["a", "red", "blue", "green", "big", "small", "circle", "square", "on", "grey"]
SPECIAL = ("<pad>", "<unknown>", "<start>", "<end>")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny tensors are faster without the threads, and other tests run beside these."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<start>", words["<start>"]), ("<end>", words["<end>"])]
    tokenizer.post_processor = processors.TemplateProcessing("<start> $A <end>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unknown>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=77,
    ).save_pretrained(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


class Pictures:
    """n captions with m coloured noise images each; the colour belongs to the caption, the noise to the image."""

    def __init__(self, captions: int, images: int, size_px: int = 32) -> None:
        self.captions, self.images, self.size_px = captions, images, size_px

    def iterate(self, start: int) -> Iterator[dict]:
        while True:
            generator = torch.Generator().manual_seed(start)
            kinds = torch.randint(len(WORDS), (self.captions,), generator=generator)
            colours = torch.rand(len(WORDS), 3, generator=torch.Generator().manual_seed(7))[kinds]
            shape = (self.images * self.captions, 3, self.size_px, self.size_px)
            pixels = colours.repeat(self.images, 1)[..., None, None] * 160 + 80 * torch.rand(shape, generator=generator)
            yield {
                "images": pixels.to(torch.uint8),
                "caption": (torch.arange(self.captions) + start * self.captions).repeat(self.images),
                "text": [f"a {WORDS[kind]} circle" for kind in kinds],
                "label": [WORDS[kind] for kind in kinds],
                "pair_id": [f"{start}-{index}" for index in range(shape[0])],
            }
            start += 1


@pytest.fixture
def pictures() -> type[Pictures]:
    return Pictures


def folder_size(folder: Path) -> int:
    return sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
