"""A painter that does what its captions say, for what a real one does too rarely to test."""

from collections.abc import Sequence

import torch


class FakePainter:
    """Paints noise of the seed. These texts are special:

    "black", "grey", "nan": such an image, always; "black once": only with a seed in ``first_seeds``.
    "breaks": raises when painted; "unreadable": raises when encoded.
    """

    revision = "fake@1"
    scheduler = "ddim"
    size_px = 8
    text_limit = 77

    def __init__(self, fits: int = 1000, first_seeds: Sequence[int] = ()) -> None:
        self.fits = fits  # images that the memory holds
        self.first_seeds = set(first_seeds)
        self.batches: list[int] = []  # sizes asked for
        self.encoded: list[str] = []
        self.num_cut = 0

    def encode(self, texts: Sequence[str]) -> dict[str, list[str]]:
        if "unreadable" in texts:
            raise TypeError("no such text\nand more lines")
        self.encoded += texts
        self.num_cut += sum(text.startswith("long") for text in texts)
        return {"prompt": list(texts)}

    def words_unknown(self, texts: Sequence[str]) -> list[str]:
        return [text for text in texts if text.startswith("zebra")]

    def sample(self, embeddings, seeds, guidance, steps, size_px) -> torch.Tensor:
        self.batches.append(len(seeds))
        if len(seeds) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.stack([self._one(*each, size_px) for each in zip(embeddings["prompt"], seeds, strict=True)])

    def _one(self, text: str, seed: int, side: int) -> torch.Tensor:
        if text == "breaks":
            raise RuntimeError("this caption breaks the network")
        if text == "black" or (text == "black once" and seed in self.first_seeds):
            return torch.zeros(3, side, side)
        if text == "grey":
            return torch.full((3, side, side), 0.5)
        image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))
        if text == "nan":
            image[0, 1, 2] = torch.nan
        return image
