"""A captioner folder: a decoder, a support set, and the names of the encoder and the detector that it was trained on.

Another kind of captioner, models/token_captioner.py, answers in the same way and is opened by the same function.

captioner.json       encoder and its revision, detector, names of tags, what the decoder is shown, its size
decoder/             a GPT-2 that transformers opens, and its tokenizer
visual.safetensors   the maps from features and tags to its prefix
support/             sentences and their text features; see models/support_set.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import GPT2LMHeadModel

from reverie.errors import InputError, ModelError
from reverie.models.artifacts import find_artifact
from reverie.models.encoder import Encoder, open_encoder
from reverie.models.image_input import Pictured, opened_picture
from reverie.models.names import Located, check_sizes, check_weights
from reverie.models.pretrained import fetched, first_line, load_model, load_tensors, load_tokenizer, usable
from reverie.models.support_set import Support, load_support
from reverie.nets.captioner import TAG, VISUAL, CaptionNet, DecoderShape, prompt_tokens
from reverie.nets.projection import nearest, project
from reverie.store.json_files import read_json

if TYPE_CHECKING:
    from reverie.models.detector import Detector

MakeSupportSet = Callable[[Encoder, str], Support]

ABOUT, SUPPORT = "captioner.json", "support"
SHAPE = {
    "encoder": str, "revision": str, "detector": (str, None), "names": [str], "threshold": float, "max_tags": int,
    "shows": {"tags": str, "asked_projected": bool, "temperature": float, "top_k": int},
    "shape": {...: float},
}  # fmt: skip
MAX_LAYERS, MAX_TOKENS = 200, 10_000  # of a decoder; more is damage
MAX_ENTITIES, ENTITY_SHARE = 3, 0.4  # of a prompt, as in ViECap: names that the encoder is surer of than this share


@dataclass(frozen=True)
class CaptionOutput:
    """What a captioner says of one image."""

    text: str
    tags: tuple[str, ...]  # names that it was given
    nearest: tuple[tuple[str, float], ...]  # support sentences and their cosine, the nearest first


@dataclass(frozen=True)
class DecoderInputs:
    """What the decoder gets to see of some images."""

    features: Tensor  # unit rows (n, d)
    shown: Tensor  # unit rows (n, d)
    tags: Tensor  # numbers of names (n, m), -1 where there are fewer
    names: list[list[str]]


class Captioner:
    """Made by ``load_captioner``. Call it with images."""

    def __init__(
        self, net: CaptionNet, tokenizer: Any, encoder: Encoder, detector: Detector | None, support: Support,
        about: dict[str, Any],
    ) -> None:  # fmt: skip
        self.net, self.tokenizer, self.encoder, self.detector = net, tokenizer, encoder, detector
        self.support: Support | None = support  # None: one that knows no sentences, as of Synth²
        self.names: list[str] = about["names"]
        self.shows: dict[str, Any] = about["shows"]
        self.device = next(net.parameters()).device
        self.threshold, self.max_tags = float(about["threshold"]), int(about["max_tags"])

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu", batch_size: int = 64) -> Captioner:
        """Open what ``Run.save_pretrained`` or ``Run.push_to_hub`` made: a folder or a Hub id. Raises: as ``load_captioner``."""
        return load_captioner(fetched("captioner", name), device, batch_size)

    def __call__(self, images: Sequence[Pictured], beams: int = 1, num_nearest: int = 0) -> list[CaptionOutput]:
        """One answer an image, in order.

        Args:
            beams: 1 takes the likeliest word each time; more search that many sentences at once.
            num_nearest: also tell the nearest sentences of the support set.
        Raises: InputError for a file that is not there, BrokenImage for one that is no image.
        """
        if isinstance(images, (str, bytes, Path, Image.Image)) or not isinstance(images, Iterable):
            raise InputError("give a list of pictures, also for one alone")
        if beams < 1 or num_nearest < 0:
            raise InputError("beams are 1 or more, and num_nearest 0 or more")
        support = self.support
        if num_nearest and support is None:
            raise InputError("this captioner has no support set, so no sentence of it can be shown (--nearest)")
        pictures = [opened_picture(image) for image in images]
        if not pictures:
            return []
        with usable(self.encoder.revision, "say what is in pictures"):
            seen = self.prepare(self.encoder.images(pictures), self.find_tags(pictures))
            texts = self.generate(seen, beams)
        close: list[tuple[tuple[str, float], ...]] = [()] * len(texts)
        if num_nearest and support is not None:
            cosines, numbers = nearest(seen.features, support.rows, num_nearest)
            close = [
                tuple((support.texts[n], c) for n, c in zip(ns, cs, strict=True))
                for ns, cs in zip(numbers.tolist(), cosines.tolist(), strict=True)
            ]
        return [CaptionOutput(*told) for told in zip(texts, map(tuple, seen.names), close, strict=True)]

    @property
    def control(self) -> str:
        """Whether what painted its images learned from the same pairs, and why, where that is a question; else empty."""
        return ""

    def find_tags(self, pictures: Sequence[Any]) -> list[list[str]] | None:
        """Names of what the detector finds in each picture, the surest first; None where tags are not asked of it."""
        if self.shows["tags"] != "attention" or self.detector is None:
            return None
        from reverie.models.detector import OBJECTS, tags

        return [
            [name for name, _ in tags(each, self.max_tags)]
            for each in self.detector.find(pictures, self.threshold, OBJECTS)
        ]

    def prepare(
        self, features: Tensor, tags: list[list[str]] | None, temperature: float | None = None
    ) -> DecoderInputs:
        """What the decoder is shown for unit features (n, d) of photos and their tags.

        Args:
            temperature: of the projection, in place of the one it learned with.
        """
        features = F.normalize(features.float(), dim=1)
        shown = features
        if self.shows["asked_projected"]:
            heat = temperature or self.shows["temperature"]
            top_k, device = self.shows["top_k"], str(self.device)
            assert self.support is not None
            shown = project(features, self.support.rows, heat, top_k=top_k, device=device).rows
        if self.shows["tags"] == "prompt":
            tags = self._entities(features)
        number = {name: place for place, name in enumerate(self.names)}
        names = [[tag for tag in each if tag in number][: self.max_tags] for each in tags or [[]] * len(features)]
        width = max(map(len, names), default=0)
        rows = [[number[tag] for tag in each] + [-1] * (width - len(each)) for each in names]
        return DecoderInputs(features, shown, torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width), names)

    def generate(self, seen: DecoderInputs, beams: int = 1, batch_size: int = 64) -> list[str]:
        """A sentence for each image."""
        found: list[str] = []
        for start in range(0, len(seen.features), batch_size):
            some = slice(start, start + batch_size)
            prompt = prompt_tokens(self.tokenizer, seen.names[some]) if self.shows["tags"] == "prompt" else None
            feature, shown, tags = (rows[some].to(self.device) for rows in (seen.features, seen.shown, seen.tags))
            prompt = None if prompt is None else prompt.to(self.device)
            ids = self.net.generate(feature, shown, tags, prompt, beams)
            found += [" ".join(text.split()) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return found

    def _entities(self, features: Tensor) -> list[list[str]]:
        """Names that the encoder is sure of: at most three, each with more than 0.4 of a softmax at temperature 0.01."""
        shares = (features @ self._name_rows.T / 0.01).softmax(1)
        values, numbers = shares.topk(min(MAX_ENTITIES, len(self.names)), dim=1)
        return [
            [self.names[n] for n, share in zip(ns, shares_, strict=True) if share >= ENTITY_SHARE]
            for ns, shares_ in zip(numbers.tolist(), values.tolist(), strict=True)
        ]

    @property
    def _name_rows(self) -> Tensor:
        if not hasattr(self, "_names_encoded"):
            self._names_encoded = self.encoder.texts([TAG.format(name=name) for name in self.names])
        return self._names_encoded


def load_captioner(
    path: str | Path, device: str = "cpu", batch_size: int = 64, support: str | Path | MakeSupportSet | None = None
) -> Captioner:
    """Open a captioner folder, or the captioner of a run folder.

    Args:
        support: a support folder of the same encoder in place of its own, or a function that makes one for an opened encoder
            and its name, such as ``support_of_file(FILE)``; nothing is trained.
    Raises: InputError if there is none at the path, or for a support set where the decoder is shown none; ModelError if its encoder is not the one it was trained on.
    """
    folder = find_artifact("captioner", Path(path))
    again = "make it again"
    if "kind" in read_json(folder / ABOUT, {...: object}, ModelError, again):
        from reverie.models.token_captioner import open_token_captioner

        if support is not None:
            raise InputError(
                f"{folder} says photos in no support set, so another one changes nothing; name a captioner that does"
            )
        return open_token_captioner(folder, device, batch_size)
    about = read_json(folder / ABOUT, SHAPE, ModelError, again)
    rest = load_tensors(folder / VISUAL)
    decoder = Located("folder", str(folder / "decoder"), None, f"{folder.name}/decoder")
    check_weights(folder / "decoder")
    for file in sorted((folder / "decoder").glob("*config.json")):
        check_sizes(file)
    tokenizer = load_tokenizer(decoder)
    net = _empty_net(folder, about, rest, tokenizer)
    net.decoder = load_model(GPT2LMHeadModel, decoder)
    encoder = open_encoder(about["encoder"], device, batch_size)
    if encoder.revision != about["revision"]:
        raise ModelError(
            f"{folder} was trained on {about['revision']}, but {about['encoder']} is now {encoder.revision}; train it again"
        )
    if support is not None and not about["shows"]["asked_projected"]:
        raise InputError(
            f"{folder} says photos in no support set, so another one changes nothing; name a captioner that does"
        )
    known = support(encoder, about["encoder"]) if callable(support) else load_support(Path(support or folder / SUPPORT))
    if known.revision != encoder.revision:
        raise InputError(f"the support set was made with {known.revision}, and the captioner reads {encoder.revision}")
    detector = None
    if about["detector"] and about["shows"]["tags"] == "attention":
        from reverie.models.detector import open_detector

        detector = open_detector(about["detector"], device, batch_size)
    return Captioner(net.eval().to(device), tokenizer, encoder, detector, known, about)


def _empty_net(folder: Path, about: dict[str, Any], rest: dict[str, Tensor], tokenizer: Any) -> CaptionNet:
    """A CaptionNet of the size that the file says, with all but its decoder. Raises ModelError."""
    try:
        # The files say two sizes: the larger one of a damaged file must not fill the memory.
        dim, wide = rest["value.weight"].shape[1], rest["value.weight"].shape[0]
        if "max_tags" not in about:
            raise ValueError("it was made by an earlier version of reverie")
        shape = DecoderShape(**about["shape"])
        if shape.width != wide or shape.layers > MAX_LAYERS or shape.max_tokens > MAX_TOKENS:
            raise ValueError(f"a decoder of width {shape.width}, and weights for {wide}")
        tag_rows = rest.get("tag_rows")
        if about["shows"]["tags"] not in ("attention", "prompt", "none"):
            raise ValueError(f"tags are {about['shows']['tags']!r}")
        if tag_rows is not None and len(tag_rows) != len(about["names"]):
            raise ValueError(f"{len(tag_rows)} rows of tags for {len(about['names'])} names")
        net = CaptionNet(dim, tag_rows, shape, tokenizer)
        missing, unexpected = net.load_state_dict(rest, strict=False)
        if unexpected or any(not name.startswith("decoder.") for name in missing):
            raise ValueError(f"{VISUAL} does not fit {ABOUT}")
    except Exception as error:
        raise ModelError(f"{folder} is a damaged captioner ({first_line(error)}); make it again") from error
    return net
