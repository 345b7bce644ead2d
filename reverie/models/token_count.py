"""How long texts are in the tokens of a text encoder, and how many it reads."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reverie.errors import InputError
from reverie.models.pretrained import load_tokenizer_of
from reverie.store.sources import unpacked

CLIP_LIMIT = 77
CLIP_MERGES = 49152 - 256 - 2  # that its code takes of the file, which has more
Counted = Callable[[Sequence[str]], list[int]]


def open_token_counter(name: str) -> tuple[Counted, int]:
    """What counts the tokens of texts, begin and end included, and the limit of the encoder.

    Args: name: a builtin model, a folder or a Hub id with a tokenizer; or CLIP's own file of merges, bpe_simple_vocab_16e6.txt.gz.
    Raises: ModelError, UnknownName, InputError.
    """
    path = Path(name)
    tokenizer = (
        clip_tokenizer(path) if path.is_file() and path.name.endswith((".txt.gz", ".txt")) else load_tokenizer_of(name)
    )

    def counted(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        return [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]

    return counted, int(min(tokenizer.model_max_length, 1_000_000))


def clip_tokenizer(merges: Path) -> Any:
    """CLIP's tokenizer of its file of merges, as its own code makes it. Raises InputError for another file."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    try:
        data = merges.read_bytes()
        lines = (unpacked(data, merges) if merges.suffix == ".gz" else data).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{merges} cannot be read as CLIP's merges ({error}); give bpe_simple_vocab_16e6.txt.gz"
        ) from error
    pairs = [line.split() for line in lines[1 : CLIP_MERGES + 1]]
    if len(pairs) < CLIP_MERGES or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"{merges} holds no merges of CLIP's vocabulary; give bpe_simple_vocab_16e6.txt.gz")
    signs = list(bytes_to_unicode().values())
    tokens = [
        *signs,
        *(f"{sign}</w>" for sign in signs),
        *("".join(pair) for pair in pairs),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = dict(zip(tokens, itertools.count(), strict=False))
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in pairs], model_max_length=CLIP_LIMIT)
