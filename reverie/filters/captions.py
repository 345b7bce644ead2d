"""Captions of a whole run that repeat each other, nearly repeat each other, or hold what an evaluation will ask for.

Near duplicates are looked for by MinHash (datasketch) over overlapping pieces of the text and then compared piece by piece, so
what counts as near does not depend on luck but for pairs that MinHash never brought together. The rule against leaks is the one
that training sets of language models are cleaned by: eight words in a row, shared with a reference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasketch import MinHash, MinHashLSH

from reverie import pairs
from reverie.captions.checks import same
from reverie.datasets.captioned import check_captioned, load_captioned
from reverie.errors import InputError
from reverie.stage import Job, StepContext
from reverie.store import tables

PIECE = 5  # characters of a piece of text
PERMUTATIONS = 128  # of MinHash
SLACK = 0.1  # how much less alike than asked MinHash looks for, so that it misses few
GRAM = 8  # words in a row that a caption may not share with a reference
UNNAMED = "does not name its class"  # how the reason of such a caption begins


@dataclass(frozen=True)
class CleanCaptions(Job):
    """Captions that repeat an earlier one of the run, or hold words of an evaluation's references, become ``dropped`` with the reason.

    It stands between the source of captions and the painting.
    """

    near: float = 0.8  # share of the pieces of two captions that may be common; 1 looks for exact repeats only
    eval_data: str = (
        ""  # photos whose references no caption may share eight words in a row with; see datasets/captioned.py
    )
    eval_images: Path | None = None  # folder of them, where they are a file of captions
    eval_split: str = "test"  # of such a file that has several

    def __post_init__(self) -> None:
        if not 0 < self.near <= 1:
            raise InputError(f"near {self.near} is the share of a caption that another may have, above 0 and at most 1")

    def check(self) -> None:
        """Raises InputError if the photos are not there."""
        if self.eval_data:
            check_captioned(self.eval_data, self.eval_images, self.eval_split)

    def preview(self, count: int) -> Job:
        """The same, among few captions."""
        return self

    def run(self, context: StepContext) -> None:
        """Judge all captions, and report what was found. Raises InputError if nothing is left."""
        rows = [row for part in tables.scan(context.captions) for row in part.to_pylist()]
        made = [row for row in rows if row["status"] == pairs.OK]
        # By unit and name, so that which of two stays does not depend on who committed first.
        made.sort(key=lambda row: (row["unit"], row["caption_id"]))
        reasons = repeated([row["text"] for row in made], self.near)
        if self.eval_data:
            photos = load_captioned(self.eval_data, self.eval_images, self.eval_split)
            known = grams(text for texts in photos.references for text in texts)
            for number, row in enumerate(made):
                if reasons[number] is None and not known.isdisjoint(grams([row["text"]])):
                    reasons[number] = f"shares {GRAM} words in a row with a reference of {self.eval_data}"
        dropped = [
            {**row, "status": pairs.DROPPED, "reason": reason}
            for row, reason in zip(made, reasons, strict=True)
            if reason is not None
        ]
        if made and len(dropped) == len(made):
            raise InputError(f"none of {len(made):,} captions is left, first: {dropped[0]['reason']}")
        if dropped:
            schema = pa.schema([field for field in pairs.CAPTIONS if field.name in dropped[0]])
            tables.replace_rows(context.captions, pairs.table(dropped, schema), key="caption_id")
        counts = Counter(str(row["reason"]).split(" ")[0] for row in dropped)
        missed = sum(str(row["reason"] or "").startswith(UNNAMED) for row in rows)
        context.report(
            "cleaned",
            captions=len(made), kept=len(made) - len(dropped), exact=counts["repeats"], near=counts["nearly"],
            references=counts["shares"], miss_rate=round(missed / len(rows), 4) if rows else None,
        )  # fmt: skip


def repeated(texts: Sequence[str], near: float = 0.8) -> list[str | None]:
    """For each text why it is a repeat of an earlier one that is none, or None."""
    first: dict[str, int] = {}
    found: list[str | None] = []
    index = MinHashLSH(threshold=max(0.05, near - SLACK), num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    for number, text in enumerate(texts):
        form = same(text)
        if form in first:
            found.append(f"repeats a caption: {texts[first[form]]!r}")
            continue
        first[form] = number
        reason = None
        if near < 1 and (mine := pieces(form)):
            sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
            sketch.update_batch([piece.encode() for piece in sorted(mine)])
            for other in sorted(index.query(sketch)):
                if alike(mine, pieces(same(texts[other]))) >= near:
                    reason = f"nearly repeats a caption: {texts[other]!r}"
                    break
            if reason is None:
                index.insert(number, sketch)
        found.append(reason)
    return found


def pieces(text: str) -> set[str]:
    """All pieces of five characters; a shorter text is one piece."""
    return {text[start : start + PIECE] for start in range(max(1, len(text) - PIECE + 1))} if text else set()


def alike(a: set[str], b: set[str]) -> float:
    """Jaccard: what both have, as a share of what either has."""
    return len(a & b) / len(a | b) if a or b else 1.0


def grams(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """All runs of eight words, without case and punctuation."""
    found: set[tuple[str, ...]] = set()
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        found.update(tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1))
    return found
