"""What the page of a run of recap tells: whom it holds against whom, and what the captioner wrote."""

import json

import pyarrow as pa
import pytest

from reverie.report.described import gather as described
from reverie.report.facts import gather
from reverie.report.page import write
from reverie.report.thumbs import Thumbs
from reverie.run.plan import call_recipe
from reverie.store import results, tables
from reverie.studies.recap import recap

from ..recaption.test_mix import fill
from ..records import result
from .conftest import EVIL
from .test_page import read

LABELS = {
    "base": "no further training", "alt": "alt-text", "short": "short captions", "long": "long captions", "mix": "mix of captions",
}  # fmt: skip


def settled(folder, **flags):
    """A run of recap that has done nothing yet."""
    folder.mkdir(exist_ok=True)
    call_recipe("recap", flags).settle(folder)
    return folder


def recaptioned(folder, styles=("short", "long"), num=12, texts=None):
    """Images as a captioner leaves them, in the step that draws them."""
    store = fill(folder, num, text=texts or {}, caption_long={4: EVIL, 5: None}) / "pairs.lance"
    names = [row["pair_id"] for row in tables.read_unit(store, 0, ["pair_id"]).to_pylist()]
    for style in styles:
        flags = [[] for _ in names]
        flags[0], flags[1], flags[2] = ["too_long", "repetition"], ["too_long"], ["too_long"] if style == "long" else []
        columns = {
            "pair_id": names, "unit": pa.array([0] * num), f"caption_{style}_by": [EVIL] * num,
            f"caption_{style}_flags": pa.array(flags, pa.list_(pa.string())),
        }  # fmt: skip
        tables.append_unit(folder / f"{style}.lance", 0, pa.table(columns))
        tables.add_columns(store, folder / f"{style}.lance")


def tuned(folder, before=0.5, after=0.4, best=25):
    """What the tuning of the captioner leaves."""
    numbers = {
        "words": 9.0,
        "recall": 0.75,
        "hallucinated": 0.125,
        "repetition": 0.0,
        "variety": None,
        "over_limit": 0.25,
    }
    about = {
        "captioner": EVIL, "captions": 1, "images": 1, "held_out": 3, "best_step": best, "before": {"loss": before} | numbers,
        "after": {"loss": after} | numbers,
    }  # fmt: skip
    file = folder / "weights" / "captioner" / "describer.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(about))


def told(folder, **facts):
    """What a training told in the end."""
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": 1.0, "kind": "trained"} | facts) + "\n")


def compared(folder, arms):
    """Whom the page of these arms holds against whom, and its headline."""
    settled(folder, arms=arms)
    for place, arm in enumerate(arms):
        record = result(
            arm=arm, label=LABELS[arm], metric="soa_c:judge", value=0.1 * place, step="generation", protocol="generation", weights=arm,
        )  # fmt: skip
        results.append(folder / "results.jsonl", record)
    write(folder)
    rows = [(item.first.id, item.second.id) for item in gather(folder).measured[0].comparisons]
    return rows, read(folder).text


@pytest.mark.parametrize(
    ("arms", "rows"),
    [
        (("base", "alt", "short", "long", "mix"), ["mix alt", "base alt", "short alt", "long alt"]),
        (("mix", "long", "alt"), ["mix alt", "long alt"]),
        (("base", "alt", "short"), ["short alt", "base alt"]),
        (("long", "alt", "short"), ["long alt", "short alt"]),
        (("base", "short", "mix"), ["mix base", "short base"]),
        (("base", "alt"), ["alt base"]),
        (("short", "mix"), ["mix short"]),
    ],
)
def test_every_arm_is_held_against_alt_text_whatever_the_order_of_arms(tmp_path, arms, rows):
    found, text = compared(tmp_path / "run", arms)
    assert [" ".join(each) for each in found] == rows
    first, second = (LABELS[name] for name in rows[0].split())
    assert f"Is {first} better than {second}?" in text
    assert f"{first} − {second}" in text
    assert f" {first}: SOA-C, judge " in text  # the headline


def test_the_page_shows_the_captioner_its_captions_and_what_was_left_out(tmp_path):
    folder = settled(tmp_path / "run")
    tuned(folder)
    recaptioned(folder / "shots" / "photos", texts={3: None})
    told(folder, step="alt-0", images=9, without_caption=1, pairs_too_long=2, captions=11, dropped=2)
    told(folder, step="mix-0", images=12, without_caption=0, pairs_too_long=0, captions=23, cut=5)
    write(folder)
    seen = read(folder)
    for wanted in (
        "tuned on 1 human caption.",
        "On the captions of 3 other images, which were held out, its loss fell from 0.5 to 0.4.",
        "things there that are named 75.0% 75.0%",
        "things named that are not there 12.5% 12.5%",
        "captions over the captioner's own limit 25.0% 25.0%",
        "of 12 images",
        "alt-text 11 1.0",
        "short 12 2.0 2 (16.7%) repetition 1",
        "long 11 ",
        " 3 (25.0%) repetition 1",
        "alt-text 9 1 2 11 2, left out",
        "mix of captions 12 0 0 23 5, cut",
        "short: short 9 long: long 9",
        "alt-text: none",
    ):
        assert wanted in seen.text, wanted
    assert "did not help" not in seen.text
    assert sum(tag == "img" for tag, _ in seen.tags) == 8
    assert not [tag for tag, _ in seen.tags if tag == "script"]
    assert seen.text.count('alert("1")') >= 4  # the captioner, who wrote, and a caption


def test_metrics_of_the_same_words_share_a_table(tmp_path):
    folder = settled(tmp_path / "run")
    words = {"soa_c:judge": ("circle", "star"), "soa_i:judge": ("circle", "star"), "pa:judge": ("above", "below")}
    shared = {"arm": "mix", "step": "generation", "protocol": "generation", "weights": "w"}
    records = [
        result(**shared, metric=metric, details={"parts": dict.fromkeys(names, 0.5)}) for metric, names in words.items()
    ]
    results.append(folder / "results.jsonl", *records)
    text = write(folder).read_text()
    titles = [
        part.partition(", word by word")[0].rpartition(">")[2]
        for part in text.split("</h3>")
        if ", word by word" in part
    ]
    assert titles == ["SOA-C, judge", "PA, judge"]


def test_the_page_of_a_study_has_captions_too(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    recap().runs["smallworld"].settle(folder)
    tuned(folder)
    recaptioned(folder / "shots" / "photos")
    for step in ("alt-0", "alt-1", "long-25-0"):
        told(folder, step=step, images=12, captions=12, cut=0)  # as runs told it that were begun before
    write(folder)
    text = read(folder).text
    assert "short 12 2.0 2 (16.7%) repetition 1" in text
    assert "alt-text 12 not told not told 12 none long 25 12 not told" in text


@pytest.mark.parametrize("after", [0.5, 0.6, float("nan")])
def test_a_tuning_that_did_not_help_is_told_so(tmp_path, after):
    folder = settled(tmp_path / "run")
    tuned(folder, after=after)
    write(folder)
    assert f"Tuning did not help : on the captions of 3 other images, which were held out, its loss is {after:g} after it, and was 0.5 before." in read(folder).text  # fmt: skip


def test_a_captioner_that_no_step_made_better_is_told_to_be_as_it_was(tmp_path):
    folder = settled(tmp_path / "run")
    tuned(folder, after=0.5, best=0)
    write(folder)
    text = read(folder).text
    assert "its loss was 0.5 before it and lower at no later step. The captioner is as it was." in text


def test_images_of_ones_own_without_text_have_short_captions_of_a_captioner_as_it_is(tmp_path):
    store = tmp_path / "store"
    fill(store / "full", text=dict.fromkeys(range(12)))
    rows = tables.read_unit(store / "full" / "pairs.lance", 0)
    tables.append_unit(store / "pairs.lance", 0, rows.drop_columns(["caption_short", "caption_long"]))
    folder = settled(tmp_path / "run", images=str(store), arms=("base", "short"))
    write(folder)
    assert "Captions" not in read(folder).texts  # nothing is written yet
    recaptioned(tmp_path / "made", ("short",), texts=dict.fromkeys(range(12)))
    (store / "pairs.lance").rename(tmp_path / "before.lance")
    (tmp_path / "made" / "pairs.lance").rename(store / "pairs.lance")
    write(folder)
    text = read(folder).text
    assert "By builtin:describer, which was not tuned here." in text
    assert "alt-text 0 short 12 2.0 2 (16.7%)" in text
    assert "alt-text: none short: short 9" in text
    assert "long 9" not in text
    assert described(gather(settled(tmp_path / "other")), Thumbs()) is None
