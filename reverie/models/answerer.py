"""Questions about pictures -> answers, by any image-text-to-text model of transformers or one behind a server.

The models are those of models/describer.py, asked with a question in place of a prompt; which words stand around it is a matter of the
model's family. Answers are the likeliest words, and short: the question asks for yes or no.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image

from reverie.errors import ModelError
from reverie.models.batching import AdaptiveBatcher
from reverie.models.describer import (
    LocalDescriber,
    ServerDescriber,
    encode,
    moved_to,
    open_describer,
    picture_address,
    without_question,
)
from reverie.models.pretrained import usable

MAX_TOKENS = 8  # of an answer
ASKED: Mapping[str, str] = {  # by the type of the model; all others are asked in words
    "paligemma": "answer en {}",
    "blip": "question: {} answer:",
    "blip-2": "Question: {} Answer:",
    "instructblip": "{} Answer yes or no.",
}
IN_WORDS = "{} Answer with one word, yes or no."


class LocalAnswerer:
    """A model in this process. Made by ``open_answerer``."""

    def __init__(self, describer: LocalDescriber, batch_size: int) -> None:
        self.revision, self._describer = describer.revision, describer
        self._in_batches = AdaptiveBatcher(batch_size)
        self._words = ASKED.get(describer.asking.kind, IN_WORDS)

    def __call__(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One answer for each picture and its question, in order."""
        with usable(self.revision, "answer questions about pictures"):
            found = self._in_batches(self._answers, list(zip(pictures, questions, strict=True)))
            return [text for texts in found for text in texts]

    @torch.inference_mode()
    def _answers(self, asked: Sequence[tuple[Image.Image, str]]) -> list[str]:
        own = self._describer
        own.tokenizer.padding_side = "right" if own.asking.seq2seq else "left"
        texts = [
            replace(own.asking, prompts={"short": self._words.format(question)}).question("short", own.processor)
            for _, question in asked
        ]
        inputs = encode(own.processor, [picture for picture, _ in asked], texts)
        inputs = {name: moved_to(value, own.net) for name, value in inputs.items()}
        ids = own.net.generate(
            **inputs, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=own.tokenizer.pad_token_id
        )
        answers = own.tokenizer.batch_decode(without_question(inputs.get("input_ids"), ids), skip_special_tokens=True)
        return [" ".join(text.split()) for text in answers]


class ServerAnswerer:
    """A model with eyes behind a server. Made by ``open_answerer``."""

    def __init__(self, describer: ServerDescriber) -> None:
        self.revision, self._writer = describer.revision, describer._writer

    def __call__(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One answer for each picture and its question, in order. Raises ModelError as ``ServerWriter.write`` does."""
        known: dict[int, str] = {}  # many questions are about one picture
        for picture in pictures:
            if id(picture) not in known:
                known[id(picture)] = picture_address(picture)
        asked = [
            [
                {"type": "text", "text": IN_WORDS.format(question)},
                {"type": "image_url", "image_url": {"url": known[id(picture)]}},
            ]
            for picture, question in zip(pictures, questions, strict=True)
        ]
        return self._writer.answer(asked, [0] * len(asked), MAX_TOKENS, 0.0, 1.0)


def open_answerer(name: str, device: str = "cpu", batch_size: int = 16) -> LocalAnswerer | ServerAnswerer:
    """Open what answers questions about pictures, by the names of ``open_describer``.

    Raises: ModelError for a captioner of reverie, which can be asked nothing, and for what cannot see; UnknownName, InputError.
    """
    describer = open_describer(name, device, batch_size=batch_size)
    if isinstance(describer, LocalDescriber):
        return LocalAnswerer(describer, batch_size)
    if isinstance(describer, ServerDescriber):
        return ServerAnswerer(describer)
    raise ModelError(
        f"{name} is a captioner that says one sentence and answers no question; give an image-text-to-text model"
    )
