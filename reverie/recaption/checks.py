"""How good captions of images are that people have captioned as well: length, variety, repetition, and which things they name.

Things are looked up by name in a sentence. A thing that a caption names and that is not in the image counts as hallucinated. What is in the image is
what a file says (``objects``), or else what people named in their captions of it: they leave things out, so the rate is then too high
for every captioner, and compares captioners with each other.

Source of the rate: Rohrbach et al., Object Hallucination in Image Captioning, arXiv:1809.02156 (CHAIR; there by boxes and sentences of COCO).
Recall, and things by names of the user's own, are ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from reverie.recaption.flags import WORD, repeats

# The things of COCO by their names, with other words for some of them.
COCO: Mapping[str, tuple[str, ...]] = {
    "person": ("person", "people", "man", "men", "woman", "women", "boy", "girl", "child", "children", "baby"),
    "bicycle": ("bicycle", "bike"), "car": ("car",), "motorcycle": ("motorcycle", "motorbike"), "airplane": ("airplane", "plane", "jet"),
    "bus": ("bus",), "train": ("train",), "truck": ("truck",), "boat": ("boat", "ship"), "traffic light": ("traffic light",),
    "fire hydrant": ("fire hydrant", "hydrant"), "stop sign": ("stop sign",), "parking meter": ("parking meter",), "bench": ("bench",),
    "bird": ("bird",), "cat": ("cat", "kitten"), "dog": ("dog", "puppy"), "horse": ("horse",), "sheep": ("sheep", "lamb"),
    "cow": ("cow", "cattle"), "elephant": ("elephant",), "bear": ("bear",), "zebra": ("zebra",), "giraffe": ("giraffe",),
    "backpack": ("backpack",), "umbrella": ("umbrella",), "handbag": ("handbag", "purse"), "tie": ("tie", "necktie"), "suitcase": ("suitcase",),
    "frisbee": ("frisbee",), "skis": ("ski",), "snowboard": ("snowboard",), "sports ball": ("ball",), "kite": ("kite",),
    "baseball bat": ("baseball bat",), "baseball glove": ("baseball glove",), "skateboard": ("skateboard",), "surfboard": ("surfboard",),
    "tennis racket": ("tennis racket", "racket", "racquet"), "bottle": ("bottle",), "wine glass": ("wine glass",), "cup": ("cup", "mug"),
    "fork": ("fork",), "knife": ("knife", "knives"), "spoon": ("spoon",), "bowl": ("bowl",), "banana": ("banana",), "apple": ("apple",),
    "sandwich": ("sandwich",), "orange": ("orange",), "broccoli": ("broccoli",), "carrot": ("carrot",), "hot dog": ("hot dog",),
    "pizza": ("pizza",), "donut": ("donut", "doughnut"), "cake": ("cake",), "chair": ("chair",), "couch": ("couch", "sofa"),
    "potted plant": ("potted plant",), "bed": ("bed",), "dining table": ("table",), "toilet": ("toilet",), "tv": ("tv", "television"),
    "laptop": ("laptop",), "mouse": ("computer mouse",), "remote": ("remote",), "keyboard": ("keyboard",), "cell phone": ("phone", "cellphone"),
    "microwave": ("microwave",), "oven": ("oven",), "toaster": ("toaster",), "sink": ("sink",), "refrigerator": ("refrigerator", "fridge"),
    "book": ("book",), "clock": ("clock",), "vase": ("vase",), "scissors": ("scissors",), "teddy bear": ("teddy bear",),
    "hair drier": ("hair drier", "hair dryer"), "toothbrush": ("toothbrush",),
}  # fmt: skip


class Things:
    """Finds things by name in sentences; of names that lie in each other ("hot dog") the longest counts."""

    def __init__(self, names: Mapping[str, Sequence[str]] | Sequence[str]) -> None:
        words = names if isinstance(names, Mapping) else {name: (name,) for name in names}
        self._of = {word.casefold(): name for name, known in words.items() for word in known}
        longest = sorted(map(re.escape, self._of), key=len, reverse=True)
        self._pattern = re.compile(rf"\b(?P<word>{'|'.join(longest)})(?:es|s)?\b") if longest else None

    def named(self, text: str) -> frozenset[str]:
        """Things that a sentence names."""
        if self._pattern is None:
            return frozenset()
        return frozenset(self._of[match["word"]] for match in self._pattern.finditer(text.casefold()))

    def there(self, listed: Sequence[str], text: str) -> frozenset[str]:
        """Things in an image: those that are listed, under the names that sentences are read by, or, where none are, those that a text names.

        What has none of these names is left out: no sentence could ever be found to name it.
        """
        return frozenset().union(*map(self.named, listed or (text,)))


def quality(
    said: Sequence[str],
    true: Sequence[Collection[str]],
    things: Things,
    num_tokens: Sequence[int],
    limit: int,
) -> dict[str, float | None]:
    """Numbers about captions, one of each image; None where there was nothing to count.

    Args:
        true: things that are in each image.
        num_tokens, limit: as of ``flags_of``.
    Returns: words (mean), variety (different words of all words), over_limit, repetition and empty (shares of captions), hallucinated
        (share of the things named that are not there), hallucinating (share of captions with such a thing), recall (share of things that are named).
    """
    words = [WORD.findall(text.casefold()) for text in said]
    flat = [word for some in words for word in some]
    named = [things.named(text) for text in said]
    wrong = [each - set(there) for each, there in zip(named, true, strict=True)]
    right = sum(len(each & set(there)) for each, there in zip(named, true, strict=True))
    total, there_are = sum(map(len, named)), sum(len(set(there)) for there in true)
    return {
        "words": fmean(map(len, words)) if words else None,
        "variety": len(set(flat)) / len(flat) if flat else None,
        "over_limit": fmean(number > limit for number in num_tokens) if said else None,
        "repetition": fmean(repeats(text) for text in said) if said else None,
        "empty": fmean(not some for some in words) if words else None,
        "hallucinated": sum(map(len, wrong)) / total if total else None,
        "hallucinating": fmean(bool(each) for each in wrong) if wrong else None,
        "recall": right / there_are if there_are else None,
    }


def quality_of_each(
    said: Sequence[str], true: Sequence[Collection[str]], things: Things
) -> dict[str, tuple[float, ...]]:
    """Words, recall and hallucinated of each image; where a caption names nothing nothing is hallucinated, and where nothing is there all is named."""
    found: dict[str, list[float]] = {"words": [], "recall": [], "hallucinated": []}
    for text, there in zip(said, true, strict=True):
        named = things.named(text)
        found["words"].append(len(WORD.findall(text.casefold())))
        found["recall"].append(len(named & set(there)) / len(there) if there else 1.0)
        found["hallucinated"].append(len(named - set(there)) / len(named) if named else 0.0)
    return {name: tuple(values) for name, values in found.items()}
