"""One caption a visit by weights: the shares, what is drawn again and what is not, and every kind of batch that takes a mix."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from reverie import pairs, seeds
from reverie.errors import InputError, SettingsChanged
from reverie.learn.clip import CLIP
from reverie.learn.fit import Fit
from reverie.learn.stablerep import StableRep
from reverie.learn.train import Train
from reverie.learn.train_painter import TrainPainter
from reverie.recaption.mix import Mix
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.batches import CaptionBatches
from reverie.store.pictures import as_png
from reverie.store.token_batches import Mixed, read_token_pairs
from tests.images.pipelines import save
from tests.learn.test_train import Brightness

HALVES = Mix.read(["short=0.5", "long=0.5"])
LONG = "a red circle on a white square and two green circle on the left of a blue square"  # more than the painter reads


def fill(folder: Path, num: int = 12, **changes: dict[int, Any]) -> Path:
    """Pairs with alt-text, a short and a long caption, each telling its number; ``changes``: column -> number -> value."""
    rows, more = [], []
    for i in range(num):
        caption = pairs.caption_id(0, "test", i)
        row = {
            "pair_id": pairs.pair_id(caption, 0), "caption_id": caption, "copy": 0, "unit": 0, "text": f"IMG_{i}.JPG", "label": f"{i}",
            "image": as_png(Image.new("RGB", (16, 16), (20 * i, 0, 0))), "tokens": [i] * 4, "grid": [2, 2], "status": pairs.OK,
        }  # fmt: skip
        more.append({"pair_id": row["pair_id"], "unit": 0, "caption_short": f"short {i}", "caption_long": f"long {i}"})
        for column, values in changes.items():
            if i in values:
                (row if column in row else more[-1])[column] = values[i]
        rows.append(row)
    tables.append_unit(folder / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    columns = {name: [each[name] for each in more] for name in more[0]}
    tables.append_unit(folder / "more.lance", 0, pa.table(columns))
    tables.add_columns(folder / "pairs.lance", folder / "more.lance")
    return folder


def test_each_caption_comes_as_often_as_its_weight_says_and_anew_at_each_visit() -> None:
    row = {"caption_short": "short", "caption_long": "long", "text": "alt"}
    drawn = Counter(HALVES.draw(row, seed) for seed in range(20_000))
    assert drawn["short"] / 20_000 == pytest.approx(0.5, abs=0.01)
    assert set(drawn) == {"short", "long"}
    uneven = Mix.read(["long=0.6", "alt=0.1", "short=0.3"])
    drawn = Counter(uneven.draw(row, seeds.derive("visit", seed)) for seed in range(20_000))
    shares = {text: number / 20_000 for text, number in drawn.items()}
    assert shares == pytest.approx({"alt": 0.1, "short": 0.3, "long": 0.6}, abs=0.015)
    assert [uneven.draw(row, seed) for seed in range(50)] == [uneven.draw(row, seed) for seed in range(50)]
    assert uneven == Mix.read(["short=0.3", "long=0.6", "alt=0.1"])


def test_what_a_pair_lacks_is_replaced_by_what_it_has() -> None:
    mix = Mix.read(["short=0.25", "long=0.25", "alt=0.5"])
    row = {"caption_short": None, "caption_long": " ", "text": "alt"}
    assert {mix.draw(row, seed) for seed in range(100)} == {"alt"}
    row = {"caption_short": "short", "caption_long": None, "text": "alt"}
    drawn = Counter(mix.draw(row, seed) for seed in range(9_000))
    assert drawn["short"] / 9_000 == pytest.approx(1 / 3, abs=0.02)
    assert {mix.draw(row, seed, without={"alt"}) for seed in range(100)} == {"short"}
    with pytest.raises(InputError, match="has none of the captions of the mix"):
        mix.draw(dict.fromkeys(row), 0)


def test_of_several_captions_in_a_list_one_is_drawn() -> None:
    mix = Mix.read(["words=0.5", "alt=0.5"])
    drawn = Counter(mix.draw({"words": ["a", "b", "c"], "text": "alt"}, seed) for seed in range(12_000))
    shares = {text: number / 12_000 for text, number in drawn.items()}
    assert shares == pytest.approx({"a": 1 / 6, "b": 1 / 6, "c": 1 / 6, "alt": 1 / 2}, abs=0.015)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["short=0.5", "long=0.4"], r"\(short=0.5 long=0.4\) add up to 0.9, and must add up to 1"),
        (["short=0.5", "long=0.5", "alt=0.5"], "add up to 1.5"),
        (["short", "long"], "add up to 2"),
        (["short=1.5", "long=-0.5"], "short=1.5: a weight is above 0 and up to 1"),
        (["short=0", "long=1"], "short=0: a weight is above 0"),
        (["short=half"], "--mix 'short=half': give CAPTION=WEIGHT, such as short=0.5"),
        (["short=nan", "long=1"], "give CAPTION=WEIGHT"),
        (["=0.5"], "give CAPTION=WEIGHT"),
        (["a b=1"], "give CAPTION=WEIGHT"),
        (["short=0.5", "short=0.5"], "names short twice"),
        ([], "names one or more"),
    ],
)
def test_a_mix_that_is_none_is_one_line(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Mix.read(words)


def test_columns_that_are_not_there_or_hold_nothing_are_one_line(tmp_path: Path) -> None:
    folder = fill(tmp_path, text=dict.fromkeys(range(12)))
    table = folder / "pairs.lance"
    with pytest.raises(InputError, match=r"the column 'text' of .* holds no text in any pair"):
        Mix.read(["alt=0.5", "short=0.5"]).usable(table)
    with pytest.raises(
        InputError, match=r"no column 'caption_wrong' .*columns of texts are caption_long, caption_short, and alt"
    ):
        Mix.read(["caption_wrong"]).usable(table)
    with pytest.raises(InputError, match=r"the column 'unit' of .* is not text but int64"):
        Mix.read(["unit"]).usable(table)
    bare = tmp_path / "bare"
    tables.append_unit(bare / "pairs.lance", 0, tables.read_unit(table, 0, pairs.PAIRS.names))
    with pytest.raises(
        InputError, match=r"no column 'caption_long' for long of the mix .* make it with: reverie recaption"
    ):
        HALVES.usable(bare / "pairs.lance")


def test_columns_about_captions_are_none(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    rows = tables.read_unit(folder / "pairs.lance", 0, ["pair_id", "unit"])
    for name in ("caption_short_by", "seen_by"):
        rows = rows.append_column(name, pa.array(["someone"] * len(rows), pa.string()))
    rows = rows.append_column("caption_short_flags", pa.array([["too_long"]] * len(rows), pa.list_(pa.string())))
    tables.append_unit(folder / "about.lance", 0, rows)
    tables.add_columns(folder / "pairs.lance", folder / "about.lance")
    for name in ("caption_short_by", "caption_short_flags", "status"):
        with pytest.raises(
            InputError,
            match=rf"'{name}' .* holds no captions; columns of texts are caption_long, caption_short, seen_by, ",
        ):
            Mix.read([name]).usable(folder / "pairs.lance")
    for name in ("seen_by", "label"):  # nothing called "seen" stands beside it
        Mix.read([name]).usable(folder / "pairs.lance")


def test_pairs_that_fit_are_those_of_which_a_caption_can_be_drawn(tmp_path: Path) -> None:
    texts = ["a", "", "  ", "\n\t", None]
    lists = [["b"], [], [" ", "\n"], [None], None, [None, "c"]]
    folder = fill(tmp_path, 30)
    every = [(text, several) for text in texts for several in lists]
    rows = tables.read_unit(folder / "pairs.lance", 0, ["pair_id", "unit"])
    rows = rows.append_column("one", pa.array([text for text, _ in every], pa.string()))
    rows = rows.append_column("several", pa.array([several for _, several in every], pa.list_(pa.string())))
    tables.append_unit(folder / "blank.lance", 0, rows)
    tables.add_columns(folder / "pairs.lance", folder / "blank.lance")
    for words in (["one"], ["several"], ["one=0.5", "several=0.5"]):
        mix = Mix.read(words)
        usable = mix.usable(folder / "pairs.lance")
        found = [
            row
            for part in tables.scan(folder / "pairs.lance", ["pair_id", *mix.columns], usable)
            for row in part.to_pylist()
        ]
        assert {mix.draw(row, 0) for row in found} <= {"a", "b", "c"}
        has = sum(bool(mix.all({"one": text, "several": several})) for text, several in every)
        assert len(found) == has > 0


# Batches


def drawn(batches: Any, start: int, count: int) -> list[list[str]]:
    stream = batches.iterate(start)
    return [next(stream)["text"] for _ in range(count)]


def test_batches_of_images_redraw_and_are_a_function_of_the_position(tmp_path: Path) -> None:
    folder = fill(tmp_path, caption_short={3: None, 7: None}, caption_long={3: None})

    def batches(**more: Any) -> CaptionBatches:
        where = HALVES.usable(folder / "pairs.lance")
        return CaptionBatches(folder / "pairs.lance", 4, 1, 5, 16, where=where, texts=HALVES, **more)

    found = drawn(batches(), 0, 40)
    assert batches().num_captions == 11  # number 3 has neither
    seen: dict[str, set[str]] = {}
    for text in (text for each in found for text in each):
        kind, number = text.split()
        seen.setdefault(number, set()).add(kind)
    assert seen.pop("7") == {"long"}
    assert set(map(frozenset, seen.values())) == {frozenset({"short", "long"})}
    assert drawn(batches(), 13, 5) == found[13:18]
    halves = [drawn(batches(rank=rank, world=2), 0, 6) for rank in (0, 1)]
    assert [one + two for one, two in zip(*halves, strict=True)] == found[:6]
    batch = next(batches().iterate())
    assert [text.split()[1] for text in batch["text"]] == batch["label"]


def test_batches_of_tokens_redraw_and_are_a_function_of_the_position(tmp_path: Path) -> None:
    folder = fill(tmp_path, caption_short={7: None})
    read = read_token_pairs(folder / "pairs.lance", "book", 16, (2, 2), captions=HALVES)
    found = drawn(Mixed(read, None, 4, 0.0, 3), 0, 60)
    assert drawn(Mixed(read, None, 4, 0.0, 3), 20, 3) == found[20:23]
    counts = Counter(text for each in found for text in each)
    assert {"short 1", "long 1", "long 7"} <= set(counts)
    assert "short 7" not in counts
    assert len(read.all_texts) == 23
    kept = read.some(5)
    assert {text.split()[1] for each in drawn(Mixed(kept, None, 4, 0.0, 3), 0, 9) for text in each} == {
        text.split()[1] for text in kept.texts
    }


def test_a_learner_is_handed_the_mix(tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    folder = fill(tmp_path, caption_short={3: None}, caption_long={3: None})
    context = StepContext(folder, "train", report=lambda kind, **facts: events.append((kind, facts.get("text"))))
    Train(Brightness(images_per_caption=1), Fit(2, 0.01), captions_per_batch=4, mix=HALVES).run(context)
    assert ("warning", "1 pair has no caption of the mix (long=0.5 short=0.5) and is left out") in events


@dataclass(frozen=True)
class Reader(Brightness):
    """Cannot go on without texts."""

    reads_text: bool = True

    def losses(self, net: Any, batch: dict[str, Any]) -> dict[str, Any]:
        assert all(batch["text"])
        return super().losses(net, batch)


def test_who_reads_texts_is_handed_no_pair_without_one(tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []

    def learn(learner: Any, folder: Path) -> None:
        context = StepContext(folder, "train", report=lambda kind, **facts: events.append((kind, facts.get("text"))))
        Train(learner, Fit(4, 0.01), captions_per_batch=4).run(context)

    learn(Reader(images_per_caption=1), fill(tmp_path / "some", text={3: None, 5: " "}))
    assert ("warning", "2 pairs have no text and are left out") in events
    silent = fill(tmp_path / "none", text=dict.fromkeys(range(12)))
    with pytest.raises(
        InputError, match=r"no pair of .*none that fits .* has a text, and Reader reads texts; write some with"
    ):
        learn(Reader(images_per_caption=1), silent)
    with pytest.raises(InputError, match=r"has a text, and Reader reads texts"):  # of another store, before any work
        Train(Reader(), store=silent).check()
    learn(Brightness(images_per_caption=1), silent)  # which looks at pictures alone
    assert CLIP.reads_text
    assert [StableRep(text_tower=tower).reads_text for tower in (False, True)] == [False, True]


# Painters


def painter(folder: Path, start: Path, **changes: Any) -> TrainPainter:
    settings: dict[str, Any] = {"mix": HALVES, "fit": Fit(3, 1e-3), "batch": 4, "store": folder, "size_px": 32}
    return TrainPainter(start=str(start), **settings | changes)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return save("sd", tmp_path / "start")


def test_no_caption_beyond_the_limit_reaches_the_painter_and_all_of_them_are_counted(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(
        tmp_path / "store",
        caption_short={4: LONG, 5: None, 6: None},
        caption_long={3: LONG, 4: LONG, 5: LONG, 6: None},
    )
    told: list[tuple[str, dict[str, Any]]] = []
    context = StepContext(tmp_path / "run", "painter", report=lambda kind, **facts: told.append((kind, facts)))
    shown: list[str] = []
    from reverie.learn.text_to_image import TextToImage

    inner = TextToImage.losses

    def look(self: TextToImage, net: Any, batch: Any) -> Any:
        shown.extend(batch["text"])
        return inner(self, net, batch)

    monkeypatch.setattr(TextToImage, "losses", look)
    painter(folder, start, fit=Fit(12, 1e-3)).run(context)
    assert [facts["text"] for kind, facts in told if kind == "warning"] == [
        "1 pair has no caption of the mix (long=0.5 short=0.5) and is left out",
        "4 of 21 captions are longer than 8 tokens and are left out, and with them 2 pairs that have no other",
    ]
    trained = next(facts for kind, facts in told if kind == "trained")
    assert (trained["images"], trained["captions"], trained["dropped"]) == (9, 21, 4)
    assert (trained["without_caption"], trained["pairs_too_long"]) == (1, 2)
    assert LONG not in shown
    assert {text.split()[1] for text in shown} == {str(i) for i in range(12) if i not in (4, 5, 6)}
    assert {text for text in shown if text.endswith(" 3")} == {"short 3"}

    told.clear()
    painter(folder, start, over_limit="cut").run(StepContext(tmp_path / "cut", "painter", report=context.report))
    words = [facts["text"] for kind, facts in told if kind == "warning"]
    assert words[-1] == "4 of 21 captions are longer than 8 tokens and are cut there"
    only = fill(tmp_path / "only", caption_long=dict.fromkeys(range(12), LONG))
    with pytest.raises(
        InputError, match=r"every pair .* is left out, as its captions are longer than the text encoder reads"
    ):
        painter(only, start, mix=Mix.read(["long"])).run(StepContext(tmp_path / "none", "painter"))


def test_a_resumed_run_with_another_mix_is_refused_in_one_line(tmp_path: Path, start: Path) -> None:
    folder = fill(tmp_path / "store")

    def plan(*words: str) -> Plan:
        return Plan(recipe="test", steps=(Step("painter", painter(folder, start, mix=Mix.read(words))),))

    assert run(plan("short=0.5", "long=0.5"), tmp_path / "run")
    assert run(plan("long=0.5", "short=0.5"), tmp_path / "run")  # the same, in another order
    with pytest.raises(SettingsChanged, match=r"was made with other settings \(.*mix.*0.5.*0.4") as refused:
        run(plan("short=0.4", "long=0.6"), tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert '"short"' in (tmp_path / "run" / "plan.json").read_text()


def test_templates_and_a_mix_do_not_go_together() -> None:
    with pytest.raises(InputError, match="give one of them"):
        TrainPainter(mix=HALVES, templates=("a {class}",))


def test_latents_of_a_mix_are_those_of_the_pair(tmp_path: Path, start: Path) -> None:
    """Whatever is drawn belongs to the picture: its latents are those of its number."""
    from reverie.store.latents import StoredLatents, encode_units

    folder = fill(tmp_path / "store")
    tables_of = folder / "pairs.lance", folder / "latents.lance"
    encode_units(*tables_of, lambda pictures: pictures[:, :1, :1, :1].float(), 16)
    batches = StoredLatents(
        *tables_of, HALVES, 6, seed=1, without=[tables.read_unit(tables_of[0], 0)["pair_id"][0].as_py()]
    )
    assert batches.num_pairs == 11
    stream = batches.iterate()
    for _ in range(4):
        batch = next(stream)
        numbers = np.array([int(text.split()[1]) for text in batch["text"]])
        assert torch.equal(batch["latents"].flatten(), torch.from_numpy(20.0 * numbers).float())
