from __future__ import annotations

import random

import pytest

from reverie import pairs
from reverie.errors import InputError
from reverie.filters import captions
from reverie.filters.captions import CleanCaptions, alike, grams, pieces, repeated
from reverie.stage import StepContext
from reverie.store import tables
from tests.captions.conftest import Events

WORDS = ["red", "blue", "dog", "cat", "sits", "runs", "under", "over", "table", "chair", "window", "morning", "light", "street", "park", "two", "three", "small", "large", "old"]  # fmt: skip


def sentence(seed, length=12):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def put(tmp_path, texts, unit_size=4):
    """Captions in several units."""
    told = Events()
    context = StepContext(tmp_path, "clean", report=told)
    for unit in range(0, -(-len(texts) // unit_size)):
        rows = [
            {"caption_id": f"{number:04d}", "unit": unit, "text": text, "status": "ok", "label": "x", "source": "llm"}
            for number, text in enumerate(texts)
            if number // unit_size == unit
        ]
        tables.append_unit(context.captions, unit, pairs.table(rows, pairs.CAPTIONS))
    return context, told


def found(context):
    rows = [row for part in tables.scan(context.captions) for row in part.to_pylist()]
    return {row["caption_id"]: row for row in rows}


def test_planted_copies_are_found_over_the_whole_run(tmp_path):
    texts = [sentence(seed) for seed in range(12)]
    texts[9] = texts[1].upper() + "."  # another unit
    texts[10] = texts[2].replace(" ", " ", 1) + " too"
    context, told = put(tmp_path, texts)
    CleanCaptions().run(context)
    rows = found(context)
    assert {name for name, row in rows.items() if row["status"] == "dropped"} == {"0009", "0010"}
    assert rows["0009"]["reason"] == f"repeats a caption: {texts[1]!r}"
    assert rows["0010"]["reason"] == f"nearly repeats a caption: {texts[2]!r}"
    assert rows["0009"]["label"] == "x"
    (event,) = [facts for kind, facts in told if kind == "cleaned"]
    assert event == {"captions": 12, "kept": 10, "exact": 1, "near": 1, "references": 0, "miss_rate": 0.0}
    CleanCaptions().run(context)  # again, as after a kill: nothing more is dropped
    assert sum(row["status"] == "dropped" for row in found(context).values()) == 2


def test_near_is_what_a_slow_loop_finds():
    texts = [sentence(seed) for seed in range(40)]
    for seed in range(40):
        words = sentence(seed).split()
        for at in random.Random(seed).sample(range(12), seed % 5):
            words[at] = "swapped"
        texts.append(" ".join(words))
    kept: list[str] = []
    slow = []
    for text in texts:
        near = any(alike(pieces(text), pieces(other)) >= 0.7 for other in kept)
        slow.append(near)
        if not near:
            kept.append(text)
    fast = [reason is not None for reason in repeated(texts, 0.7)]
    assert not any(quick and not sure for quick, sure in zip(fast, slow, strict=True))
    assert sum(fast) >= 0.95 * sum(slow)
    assert sum(slow) >= 8
    assert [reason is not None for reason in repeated(texts, 1.0)].count(True) == 8  # those with nothing swapped


def test_words_of_an_evaluation_are_dropped_and_counted(tmp_path):
    from reverie.datasets.captioned import load_captioned

    reference = next(
        text for texts in load_captioned("smallworld:street:20").references for text in texts if text.count(" ") > 8
    )
    planted = "we say that " + reference.upper() + " indeed"
    context, told = put(tmp_path, [sentence(1), planted, " ".join(reference.split()[:7]) + " ends"])
    CleanCaptions(near=1, eval_data="smallworld:street:20").run(context)
    rows = found(context)
    assert [rows[name]["status"] for name in sorted(rows)] == ["ok", "dropped", "ok"]
    assert rows["0001"]["reason"] == "shares 8 words in a row with a reference of smallworld:street:20"
    assert dict(told)["cleaned"]["references"] == 1


def test_how_often_a_class_was_not_named_is_told(tmp_path):
    context, told = put(tmp_path, [sentence(1), sentence(2), sentence(3)])
    rows = [
        {
            "caption_id": "x",
            "unit": 9,
            "text": "t",
            "status": "dropped",
            "reason": "does not name its class: cat is missing",
        }
    ]
    tables.append_unit(context.captions, 9, pairs.table(rows, pairs.CAPTIONS))
    CleanCaptions().run(context)
    assert dict(told)["cleaned"]["miss_rate"] == 0.25


def test_grams_and_shares_that_cannot_be(tmp_path):
    assert grams(["a b c d e f g"]) == set()
    assert len(grams(["A, b c d e f g h i!"])) == 2
    with pytest.raises(InputError, match="above 0"):
        CleanCaptions(near=0)
    assert captions.GRAM == 8
