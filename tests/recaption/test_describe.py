"""Captions beside captions: in a plan and in a folder that is there, killed and not, with slips."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from reverie import pairs
from reverie.captions.corpus import ReadCorpus
from reverie.captions.templates import FillTemplates
from reverie.cli.main import main
from reverie.errors import InputError, SettingsChanged
from reverie.models.captioner import Captioner, load_captioner
from reverie.recaption.describe import Describe
from reverie.run.columns import add_columns
from reverie.run.engine import run
from reverie.run.plan import Plan, Step, call_recipe
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.pictures import open_picture
from tests.filters.test_in_a_run import Draw
from tests.recaption.conftest import save_captioner

COLUMNS = ("caption_short", "caption_short_by", "caption_short_flags")


def fill(folder: Path, pictures: list[bytes], unit_size: int = 5) -> Path:
    """An import of these pictures, one of them broken and one that failed."""
    for unit, start in enumerate(range(0, len(pictures), unit_size)):
        captions, images = [], []
        for number, data in enumerate(pictures[start : start + unit_size], start):
            name = pairs.caption_id(0, "test", number)
            shared = {"caption_id": name, "unit": unit, "text": f"IMG_{number}.JPG", "status": "ok"}
            captions.append(shared)
            images.append(
                shared | {"pair_id": pairs.pair_id(name, 0), "copy": 0, "image": data, "width": 64, "height": 64}
            )
        if unit == 1:
            images[0] |= {"image": b"no picture"}
            images[1] |= {"image": None, "status": "failed", "reason": "it was not there"}
        tables.append_unit(folder / "captions.lance", unit, pairs.table(captions, pairs.CAPTIONS))
        tables.append_unit(folder / "pairs.lance", unit, pairs.table(images, pairs.PAIRS))
    return folder


@pytest.fixture
def store(tmp_path: Path, pictures: list[bytes]) -> Path:
    return fill(tmp_path / "store", pictures)


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["pair_id"]: row for part in tables.scan(folder / "pairs.lance") for row in part.to_pylist()}


def told(folder: Path, *columns: str) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(row[column] for column in columns or COLUMNS) for name, row in rows_of(folder).items()}


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the captioner be stopped as it is asked for the n-th time, once."""
    inner, calls = Captioner.__call__, []

    def patch(number: int) -> None:
        calls.clear()

        def call(self: Captioner, *given: Any, **how: Any) -> Any:
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return inner(self, *given, **how)

        monkeypatch.setattr(Captioner, "__call__", call)

    return patch


def test_every_row_has_what_the_captioner_says_or_a_reason_and_the_text_is_as_it_was(
    store: Path, captioner: Path
) -> None:
    before = rows_of(store)
    added = add_columns(store, Describe(captioner), "describe")
    assert (added.rows, added.made) == (11, 11)
    after = rows_of(store)
    opened = load_captioner(captioner)
    for name, row in after.items():
        assert {key: row[key] for key in before[name]} == before[name]
        said, by, flags = (row[column] for column in COLUMNS)
        if row["image"] in (None, b"no picture"):
            assert (said, by, flags) == (None, None, None)
        else:
            (expected,) = opened([open_picture(row["image"], name)])
            assert said == expected.text
            assert by.startswith("captioner ")
            assert flags == []
    assert sum(row["caption_short"] is not None for row in after.values()) == 10
    assert len({row["caption_short"] for row in after.values()}) > 2  # it looks at the pictures
    assert tables.verify(store) == [
        f"1 image does not decode: {name}" for name, row in after.items() if row["image"] == b"no picture"
    ]
    assert add_columns(store, Describe(captioner), "describe").made == 0


@pytest.mark.parametrize("at", [1, 2, 3])
def test_killed_and_run_again_it_is_as_if_it_had_not_been(
    store: Path, captioner: Path, pictures: list[bytes], tmp_path: Path, killed_at: Callable[[int], None], at: int
) -> None:
    add_columns(store, Describe(captioner), "describe")
    other = fill(tmp_path / "other", pictures)
    killed_at(at)
    with pytest.raises(KeyboardInterrupt):
        add_columns(other, Describe(captioner), "describe")
    assert "caption_short" not in tables.column_names(other / "pairs.lance")
    left = add_columns(other, Describe(captioner), "describe")
    assert (left.rows, left.made) == (11, {1: 11, 2: 6, 3: 2}[at])
    assert told(other) == told(store)


def test_killed_while_the_columns_are_joined(
    store: Path, captioner: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inner = tables.add_columns

    def join_and_die(*given: Any, **how: Any) -> None:
        inner(*given, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "add_columns", join_and_die)
    with pytest.raises(KeyboardInterrupt):
        add_columns(store, Describe(captioner), "describe")
    monkeypatch.setattr(tables, "add_columns", inner)
    assert add_columns(store, Describe(captioner), "describe").made == 0
    assert sum(row[0] is not None for row in told(store).values()) == 10


def test_what_was_made_again_since_is_described_too(store: Path, captioner: Path, pictures: list[bytes]) -> None:
    add_columns(store, Describe(captioner), "describe")
    before = told(store)
    (failed,) = [row for row in rows_of(store).values() if row["status"] == "failed"]
    fixed = {key: failed[key] for key in pairs.PAIRS.names} | {"image": pictures[6], "status": "ok", "reason": None}
    tables.replace_rows(store / "pairs.lance", pairs.table([fixed], pairs.PAIRS), "pair_id")
    added = add_columns(store, Describe(captioner), "describe")
    assert (added.rows, added.made) == (12, 1)
    after = told(store)
    assert after.pop(failed["pair_id"])[0] is not None
    assert before.pop(failed["pair_id"]) == (None, None, None)
    assert after == before


def plan(captioner: Path, **how: Any) -> Plan:
    captions = FillTemplates(("red circle", "blue square"), ("a {class}", "the {class}", "one {class}"), per_class=3)
    steps = (
        Step("captions", captions),
        Step("draw", Draw(), inputs=("captions",)),
        Step("describe", Describe(captioner, **how), inputs=("draw",)),
    )
    return Plan(recipe="test", unit_size=2, steps=steps)


def test_in_a_plan_it_is_a_step_like_others(tmp_path: Path, captioner: Path, killed_at: Callable[[int], None]) -> None:
    assert run(plan(captioner), tmp_path / "untouched")
    killed_at(2)
    with pytest.raises(KeyboardInterrupt):
        run(plan(captioner), tmp_path / "killed")
    assert run(plan(captioner), tmp_path / "killed")
    assert told(tmp_path / "killed") == told(tmp_path / "untouched")
    said = told(tmp_path / "untouched", "status", "caption_short")
    assert all((status == "ok") == (text is not None) for status, text in said.values())
    # Another captioner is another result, also under the same name.
    moved = tmp_path / "captioner"
    shutil.copytree(captioner, moved)
    settings = dataclasses.asdict(plan(moved).steps[2].stage) | {"captioner": captioner}  # type: ignore[call-overload]
    assert settings == dataclasses.asdict(plan(captioner).steps[2].stage)  # type: ignore[call-overload]
    save_captioner(tmp_path / "new", seed=1)
    assert Describe(tmp_path / "new").content != Describe(captioner).content


def test_on_the_command_line_and_into_the_next_run(
    store: Path, captioner: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["recaption", str(store), "--captioner", str(captioner), "--device", "cpu", "--batch", "2"]
    for made in (11, 0):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        said, rest = capsys.readouterr().out.splitlines()
        assert said == f"{store}: 10 of 11 images described in caption_short, {made} now"
        assert rest == "not described: 0 got no word, 1 have no picture that can be read"
    with pytest.raises(SystemExit):
        main([*words[:4], "--column", "by_beam", "--beams", "2"])
    assert {*COLUMNS, "by_beam"} <= set(tables.column_names(store / "pairs.lance"))
    flags = {"captions": store, "text_column": "caption_short", "per_caption": 1, "sampler_steps": 1, "clip": None}
    known = {text for text, *_ in told(store).values() if text}
    assert call_recipe("make", flags).num_captions == len(known)
    captions = ReadCorpus(store, "caption_short").open(StepContext(store, "captions"))
    positions = pa.table({"unit": [0] * len(known), "position": list(range(len(known)))})
    rows = captions(positions).to_pylist()
    assert len(rows) == 12  # every row there is a caption here, or says why it is none
    assert {row["reason"] for row in rows} == {None, "duplicate", "failed there: it was not there", "no caption_short"}
    assert {row["text"] for row in rows if row["status"] == "ok"} == known
    assert all(row["source"].startswith("pair: ") for row in rows)
    keep = "status = 'ok' and caption_short is not null"
    assert run(call_recipe("make", flags | {"limit": 2, "captioner": captioner, "keep": keep}), tmp_path / "next")
    painted = rows_of(tmp_path / "next").values()
    assert len({row["text"] for row in painted} & known) == len(painted) == 2
    assert all(row["kept"] and row["caption_short"] for row in painted)


# Slips


def test_nothing_is_overwritten(store: Path, captioner: Path) -> None:
    with pytest.raises(InputError, match="'text' would overwrite the column 'text' of every pair"):
        Describe(captioner, column="text")
    with pytest.raises(InputError, match="small letters"):
        Describe(captioner, column="a b")
    add_columns(store, Describe(captioner), "describe")
    with pytest.raises(InputError, match="has a column 'caption_short' already, which is not overwritten"):
        add_columns(store, Describe(captioner), "again")
    with pytest.raises(
        SettingsChanged, match=r"beams: 1 -> 2.*use another name for the new column or the old settings"
    ):
        add_columns(store, Describe(captioner, beams=2), "describe")


def test_a_column_that_came_while_the_work_was_stopped_is_not_overwritten(
    store: Path, captioner: Path, killed_at: Callable[[int], None]
) -> None:
    killed_at(2)
    with pytest.raises(KeyboardInterrupt):
        add_columns(store, Describe(captioner), "describe")
    ids = pa.concat_tables(tables.scan(store / "pairs.lance", ["pair_id"]))["pair_id"]
    mine = pa.table({"pair_id": ids, "unit": pa.array([0] * len(ids)), "caption_short": pa.array(["mine"] * len(ids))})
    tables.append_unit(store / "columns" / "mine.lance", 0, mine)
    tables.add_columns(store / "pairs.lance", store / "columns" / "mine.lance")
    with pytest.raises(InputError, match="has a column 'caption_short' already"):
        add_columns(store, Describe(captioner), "describe")
    assert {row["caption_short"] for row in rows_of(store).values()} == {"mine"}


def test_what_cannot_be_described_is_one_line_before_any_work(
    store: Path, captioner: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    with pytest.raises(InputError, match=r"there is no finished captioner at .*nowhere"):
        add_columns(store, Describe(tmp_path / "nowhere"), "describe")
    with pytest.raises(InputError, match="there is no folder"):
        add_columns(tmp_path / "nowhere", Describe(captioner), "describe")
    run(plan(captioner), tmp_path / "run", until="captions")
    with pytest.raises(InputError, match=r"is not finished \(left: draw, describe\)"):
        add_columns(tmp_path / "run", Describe(captioner), "other")
    with pytest.raises(InputError, match="has a step 'describe' of its own"):
        add_columns(tmp_path / "run", Describe(captioner), "describe")
    tables.append_unit(
        tmp_path / "texts" / "captions.lance", 0, next(tables.scan(store / "captions.lance")).slice(0, 5)
    )
    with pytest.raises(InputError, match="holds no images"):
        add_columns(tmp_path / "texts", Describe(captioner), "describe")
    assert not (store / "columns").exists()
    with pytest.raises(InputError, match="beams cannot be"):
        Describe(captioner, beams=0)
