"""The training of the painter at a size that takes seconds: ``python -m tests.builtin.tiny_train WORK PART...``."""

import dataclasses
import sys
from pathlib import Path

from reverie.builtin import pool, train

SETTINGS = {"num_scenes": 16, "batch": 4}


def make_tiny(setattr=setattr):
    """Change what the package is set to; give ``monkeypatch.setattr`` to have it changed back."""
    setattr(pool, "CHUNK", 12)
    setattr(train, "CHANNELS", (8, 16, 16))
    setattr(train, "PAINTER_FIT", dataclasses.replace(train.PAINTER_FIT, steps=3))
    setattr(train, "DECODER_FIT", dataclasses.replace(train.DECODER_FIT, steps=2))
    setattr(train, "TOKENIZER", dataclasses.replace(train.TOKENIZER, codes=32, width=8))
    setattr(train, "TOKENIZER_FIT", dataclasses.replace(train.TOKENIZER_FIT, steps=3))
    small = {"width": 16, "layers": 1, "heads": 2, "conv_width": 16, "conv_blocks": 1, "conv_heads": 2}
    setattr(train, "TOKEN_PAINTER", small)
    setattr(train, "TOKEN_PAINTER_FIT", dataclasses.replace(train.TOKEN_PAINTER_FIT, steps=3))
    setattr(train, "DESCRIBER", {"width": 16, "eye_layers": 1, "layers": 1, "heads": 2})
    setattr(train, "DESCRIBER_FIT", dataclasses.replace(train.DESCRIBER_FIT, steps=3))
    setattr(train, "TOKEN_READER_FIT", dataclasses.replace(train.TOKEN_READER_FIT, steps=2))
    setattr(train, "READER_FIT", dataclasses.replace(train.READER_FIT, steps=2))
    setattr(train, "BOUND_FIT", dataclasses.replace(train.BOUND_FIT, steps=2))
    setattr(train, "TAUGHT_FIT", dataclasses.replace(train.TAUGHT_FIT, steps=2))
    setattr(train, "SHARES", {0: (0.5, 0.25, 0.25)})
    setattr(train, "TOKEN_SHARES", {0: (0.5, 0.25, 0.25)})
    setattr(train, "EARLY_S", 0.0)


def stopped_after(count, iterate):
    """The same batches, but for an error in place of the one after ``count``."""

    def some(batches, start):
        for position, batch in enumerate(iterate(batches, start)):
            if position == count:
                raise ConnectionError("gone")
            yield batch

    return some


if __name__ == "__main__":
    make_tiny()
    work = Path(sys.argv[1])
    train.main(work, tuple(sys.argv[2:]), out=work / "out", **SETTINGS)
