"""Images -> sentences, short or long: what says what is in a picture when it is asked with a prompt.

    builtin:describer               knows the small world
    any name or folder              of an image-text-to-text model of transformers: PaliGemma, BLIP-2, Florence-2, Qwen-VL, Idefics, ...
    openai:MODEL@URL                a model with eyes behind an OpenAI-compatible server
    a run of syntic or synth2       a captioner of reverie, which says one sentence and takes no prompt
    a folder with describer.json    one that was tuned (learn/describe.py), with its own prompts

One seed a text: what is drawn for a picture does not depend on those beside it. No code of a model is run.

Source: RECAP, arXiv:2310.16656, has one captioner say short and long captions; how it decodes is not known. Here short ones are the
likeliest words, long ones are sampled (top-p 0.9, temperature 0.7, with a penalty on repetition).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import transformers
from PIL import Image
from torch import Tensor

from reverie.errors import InputError, ModelError
from reverie.models.artifacts import content_of, find_artifact, has_artifact
from reverie.models.batching import AdaptiveBatcher
from reverie.models.kinds import kind_of
from reverie.models.names import IN_FLIGHT, Located, folder_revision, locate
from reverie.models.pretrained import load_config, load_model, load_processor, usable
from reverie.models.writer import ServerWriter, draw, uniforms
from reverie.store.json_files import read_json

Style = Literal["short", "long"]
STYLES: tuple[Style, ...] = ("short", "long")
CLIP_TOKENS, MAX_WORDS = 77, 60  # what CLIP's text encoder reads, and in how many words that is sure to fit
ABOUT = "describer.json"  # beside the weights of one that knows its prompts
SHAPE = {"prompts": {"short": str, "long": str}, ...: object}

# What is asked, by the type of the model; all others are asked in words.
PROMPTS: Mapping[str, Mapping[Style, str]] = {
    "paligemma": {"short": "caption en", "long": "describe en"},
    "florence2": {"short": "<CAPTION>", "long": "<MORE_DETAILED_CAPTION>"},
    "blip": {"short": "", "long": "a detailed photo of"},
    "blip-2": {"short": "a photo of", "long": "Question: What is in the picture, in detail? Answer:"},
    "instructblip": {"short": "A short image caption:", "long": "Describe the image in detail."},
}
IN_WORDS: Mapping[Style, str] = {
    "short": "Write the caption of this picture: one short sentence and nothing else.",
    "long": "Describe this picture in one to three sentences, at most 60 words, and nothing else. Begin with the main subject; tell counts, "
    "colours, materials, where things are, and the background. Do not guess, and name nobody.",
}


@dataclass(frozen=True)
class Decoding:
    """How a sentence is chosen."""

    max_tokens: int
    temperature: float = 0.0  # 0 takes the likeliest word each time
    top_p: float = 1.0  # sample from the likeliest words that together hold this probability
    repetition_penalty: float = 1.0  # divides the scores of words that are there already; 1 = none
    beams: int = 1  # sentences that are searched at once, where nothing is sampled

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.beams < 1:
            raise InputError(f"{self.max_tokens} tokens by {self.beams} beams cannot be; give 1 or more of each")
        if not (self.temperature >= 0 and 0 < self.top_p <= 1 and self.repetition_penalty > 0):
            raise InputError(
                f"temperature {self.temperature:g} is 0 or more, top_p {self.top_p:g} above 0 and up to 1, and repetition_penalty "
                f"{self.repetition_penalty:g} above 0"
            )


DECODING: Mapping[Style, Decoding] = {"short": Decoding(40), "long": Decoding(120, 0.7, 0.9, 1.1)}


class Describer(Protocol):
    """Says what is in pictures."""

    revision: str
    styles: tuple[Style, ...]  # that it can be asked for
    limit: int  # tokens, in its own, beyond which a caption is too long where nobody says who is to read it

    def describe(
        self,
        pictures: Sequence[Image.Image],
        seeds: Sequence[int],
        style: Style = "short",
        decoding: Decoding | None = None,
    ) -> list[str]:
        """One text a picture, in order.

        Args:
            seeds: one a picture; the same picture and seed give the same text (a server may keep this promise or not).
            decoding: as is usual for the style when None.
        """
        ...

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """How long texts are in its own tokens; words where it has none."""
        ...


def open_describer(
    name: str | Path,
    device: str = "cpu",
    *,
    dtype: str = "float32",
    prompts: Mapping[Style, str] | None = None,
    cache: Path | None = None,
    batch_size: int = 16,
    parallel: int = IN_FLIGHT,
) -> Describer:
    """Open what describes images, by name (see above).

    Args:
        prompts: what it is asked for a style, in place of what is usual for its kind.
        cache: sqlite file in which a server's answers are kept.
        batch_size: pictures at once, local models; halves by itself when memory is short.
        parallel: requests at once, servers; fewer while one says that they are too many.
    Raises: InputError for a prompt where none is taken; ModelError for a model that cannot see; UnknownName, MissingExtra.
    """
    check_describer(name)
    if has_artifact("captioner", Path(name)):
        if prompts:
            raise InputError(f"{name} is a captioner of reverie, which takes no prompt")
        return _Captioner(Path(name), device, batch_size)
    place = place_of(name)
    if place.kind == "openai":
        return ServerDescriber(place, prompts or {}, cache, parallel)
    net = load_model(transformers.AutoModelForImageTextToText, place, device, getattr(torch, dtype))
    with usable(place.name, "describe pictures"):
        return LocalDescriber(net, load_processor(place), asking_of(place, prompts), str(place), device, batch_size)


def check_describer(name: str | Path) -> None:
    """That a name leads to what sees pictures and says words, by its small files alone. Raises ModelError, InputError, UnknownName."""
    path = Path(name)
    if has_artifact("captioner", path) or has_artifact("describer", path):
        return
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "model_index.json").is_file():
        find_artifact("captioner", path)  # says what a folder lacks
    if str(name).startswith(("/", ".", "~")) and not path.expanduser().exists():
        raise InputError(f"there is no finished captioner at {name}; name a model, or a run of syntic, synth2 or recap")
    place = locate(str(name))
    if place.kind == "openai":
        return
    found = None if place.gguf else load_config(place) if _is_network(place) else None
    if found is None or type(found) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        what = kind_of(place) or (f"a model of type {found.model_type!r}" if found is not None else "no such model")
        raise ModelError(
            f"{name} is {what} and cannot say what it sees; give an image-text-to-text model, such as builtin:describer"
        )


def place_of(name: str | Path) -> Located:
    """Where the model of a describer lies, also of one that a run has tuned."""
    if has_artifact("describer", Path(name)):
        folder = find_artifact("describer", Path(name))
        return Located("folder", str(folder), folder_revision(folder), folder.resolve().name)
    return locate(str(name))


def _is_network(place: Located) -> bool:
    return place.kind == "hub" or (Path(place.path_or_id) / "config.json").is_file()


@dataclass(frozen=True)
class Asking:
    """How a model is asked: what stands before its answer."""

    kind: str  # model_type of its config
    prompts: Mapping[Style, str]
    seq2seq: bool  # whether an encoder reads the question, and the answer is a text of its own

    def question(self, style: Style, processor: Any) -> str:
        """The text of a question, with the place of the picture in it where the model wants one."""
        prompt = self.prompts[style]
        if getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            asker = processor if getattr(processor, "chat_template", None) else processor.tokenizer
            text: str = asker.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return text
        if self.kind in ("blip", "blip-2", "instructblip", "florence2", "git", "vision-encoder-decoder"):
            return prompt  # the processor puts the picture in its place
        token = getattr(processor, "image_token", None) or "<image>"
        return f"{token}{prompt}"


def asking_of(place: Located, prompts: Mapping[Style, str] | None = None) -> Asking:
    """How this model is asked: by prompts that are given, its own (describer.json), or those of its kind."""
    config = load_config(place)
    usual = dict(PROMPTS.get(config.model_type, IN_WORDS))
    file = Path(place.path_or_id) / ABOUT
    if place.kind != "hub" and file.is_file():
        usual |= read_json(file, SHAPE, ModelError, "train it again")["prompts"]
    text = config.get_text_config()
    return Asking(
        config.model_type, usual | dict(prompts or {}), bool(config.is_encoder_decoder or text.is_encoder_decoder)
    )


class LocalDescriber:
    """An image-text-to-text model in this process. Made by ``open_describer``."""

    styles = STYLES
    limit = CLIP_TOKENS

    def __init__(
        self, net: Any, processor: Any, asking: Asking, revision: str, device: str, batch_size: int = 16
    ) -> None:
        self.net, self.processor, self.asking, self.revision, self.device = net, processor, asking, revision, device
        self.tokenizer = processor.tokenizer
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._in_batches = AdaptiveBatcher(batch_size)

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """See ``Describer``."""
        return [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []

    def describe(
        self,
        pictures: Sequence[Image.Image],
        seeds: Sequence[int],
        style: Style = "short",
        decoding: Decoding | None = None,
    ) -> list[str]:
        """See ``Describer``."""
        how = decoding or DECODING[style]
        asked = list(zip(pictures, seeds, strict=True))
        with usable(self.revision, "describe pictures"):
            found = self._in_batches(lambda some: self._answers(some, style, how), asked)
            return [text for texts in found for text in texts]

    @torch.inference_mode()
    def _answers(self, asked: Sequence[tuple[Image.Image, int]], style: Style, how: Decoding) -> list[str]:
        self.tokenizer.padding_side = "right" if self.asking.seq2seq else "left"
        question = self.asking.question(style, self.processor)
        inputs = encode(self.processor, [picture for picture, _ in asked], [question] * len(asked))
        inputs = {name: moved_to(value, self.net) for name, value in inputs.items()}
        options: dict[str, Any] = {}
        if how.temperature > 0:
            sampled = _Sampled([seed for _, seed in asked], how)
            options["logits_processor"] = transformers.LogitsProcessorList([sampled])
        else:
            options["num_beams"] = how.beams
        ids = self.net.generate(
            **inputs,
            max_new_tokens=how.max_tokens,
            do_sample=False,
            repetition_penalty=how.repetition_penalty,
            pad_token_id=self.tokenizer.pad_token_id,
            **options,
        )
        answers = self.tokenizer.batch_decode(without_question(inputs.get("input_ids"), ids), skip_special_tokens=True)
        return [" ".join(text.split()) for text in answers]


class _Sampled:
    """Samples inside of a greedy search: of each row only the token is left that the row's own numbers choose."""

    def __init__(self, seeds: Sequence[int], how: Decoding) -> None:
        self.how, self.step = how, 0
        self.draws = torch.stack([uniforms(seed, how.max_tokens) for seed in seeds])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits (B, V) -> the same with one that is not minus infinity in each row."""
        # Of a batch that a model makes larger, as for beams, there is none: nothing is sampled then.
        chosen = draw(scores.float(), self.draws[:, self.step].to(scores.device), self.how.temperature, self.how.top_p)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def encode(processor: Any, pictures: Sequence[Image.Image], texts: Sequence[str], **more: Any) -> dict[str, Any]:
    """Inputs of a model for pictures with a text each, as its processor makes them."""
    given: list[Any] = [picture.convert("RGB") for picture in pictures]
    found = processor(images=given, text=list(texts), padding=True, return_tensors="pt", **more)
    drop = set() if "suffix" in more else {"labels"}
    return {name: value for name, value in found.items() if name not in drop}


def moved_to(value: Any, net: Any) -> Any:
    """A tensor where the net is, floats in its number format; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.to(net.device, net.dtype) if value.is_floating_point() else value.to(net.device)


def without_question(question: Tensor | None, ids: Tensor) -> Tensor:
    """Answers without the question before them, where a model repeats it (BLIP all but its end)."""
    if question is None:
        return ids
    for length in (question.shape[1], question.shape[1] - 1):
        if 0 < length <= ids.shape[1] and torch.equal(ids[:, 1:length], question[:, 1:length]):
            return ids[:, length:]
    return ids


class ServerDescriber:
    """A model with eyes behind an OpenAI-compatible server; see ``ServerWriter`` for how it is spoken to."""

    styles = STYLES
    limit = MAX_WORDS

    def __init__(self, place: Located, prompts: Mapping[Style, str], cache: Path | None, parallel: int) -> None:
        self._writer = ServerWriter(place, cache, parallel)
        self.revision = self._writer.revision
        self._prompts = dict(IN_WORDS) | dict(prompts)

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """See ``Describer``; words, as nobody says whose tokens they are."""
        return [len(text.split()) for text in texts]

    def describe(
        self,
        pictures: Sequence[Image.Image],
        seeds: Sequence[int],
        style: Style = "short",
        decoding: Decoding | None = None,
    ) -> list[str]:
        """See ``Describer``. Raises ModelError as ``ServerWriter.write`` does; a model that cannot see is refused by its server."""
        how = decoding or DECODING[style]
        asked = [
            [
                {"type": "text", "text": self._prompts[style]},
                {"type": "image_url", "image_url": {"url": picture_address(picture)}},
            ]
            for picture in pictures
        ]
        texts = self._writer.answer(asked, seeds, how.max_tokens, how.temperature, how.top_p)
        return [" ".join(text.split()) for text in texts]


def picture_address(picture: Image.Image) -> str:
    """A picture as a data URL, which servers take in place of one on the web."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class _Captioner:
    """A captioner of reverie as a describer."""

    styles: tuple[Style, ...] = ("short",)

    def __init__(self, path: Path, device: str, batch_size: int) -> None:
        from reverie.models.captioner import load_captioner

        self.path, self.batch_size = path, batch_size
        self.captioner = load_captioner(path, device, batch_size)
        self.revision = f"captioner {content_of('captioner', path)}"
        self.limit = int(getattr(self.captioner.encoder, "limit", CLIP_TOKENS))

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """See ``Describer``; tokens of its text encoder, or of its words where it has none."""
        encoder = self.captioner.encoder
        if hasattr(encoder, "num_tokens"):
            numbers: list[int] = encoder.num_tokens(texts)
            return numbers
        return [len(ids) for ids in self.captioner.tokenizer(list(texts))["input_ids"]] if texts else []

    def describe(
        self,
        pictures: Sequence[Image.Image],
        seeds: Sequence[int],
        style: Style = "short",
        decoding: Decoding | None = None,
    ) -> list[str]:
        """See ``Describer``. Raises InputError for a long caption, which it cannot say."""
        if style not in self.styles:
            raise InputError(f"{self.path} is a captioner that says one sentence and cannot be asked for a {style} one")
        told: list[str] = []
        for start in range(0, len(pictures), self.batch_size):
            some = pictures[start : start + self.batch_size]
            told += [said.text for said in self.captioner(some, (decoding or DECODING["short"]).beams)]
        return told


def styles_of(name: str | Path) -> tuple[Style, ...]:
    """What a describer can be asked for, without opening it."""
    return _Captioner.styles if has_artifact("captioner", Path(name)) else STYLES
