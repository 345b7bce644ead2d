"""Short and long captions by a captioner that can be asked for both: in a folder, killed and not, tuned first, with slips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reverie import pairs
from reverie.cli.main import main
from reverie.errors import InputError, SettingsChanged
from reverie.models.describer import LocalDescriber
from reverie.recaption.describe import Describe
from reverie.recaption.mix import Mix
from reverie.run.columns import add_columns
from reverie.store import tables
from tests.models.describers import save_idefics3, save_paligemma
from tests.recaption.test_describe import fill, rows_of, told


@pytest.fixture(scope="session")
def describer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_idefics3(tmp_path_factory.mktemp("describer") / "idefics")


@pytest.fixture(scope="session")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that always says something."""
    return save_paligemma(tmp_path_factory.mktemp("describer") / "paligemma")


@pytest.fixture
def store(tmp_path: Path, pictures: list[bytes]) -> Path:
    return fill(tmp_path / "store", pictures)


def say(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["recaption", *map(str, words), "--device", "cpu", "--batch", "3"])
    return int(ended.value.code or 0)


def test_both_kinds_come_beside_the_text_which_stays_as_it_is(
    store: Path, paligemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows_of(store)
    assert say(store, "--captioner", paligemma, "--max-tokens", 6) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{store}: 10 of 11 images described in caption_short, 11 now" in lines
    assert f"{store}: 10 of 11 images described in caption_long, 11 now" in lines
    after = rows_of(store)
    for name, row in after.items():
        assert {key: row[key] for key in before[name]} == before[name]
        for style in ("short", "long"):
            assert (row[f"caption_{style}"] is None) == (row["image"] in (None, b"no picture"))
    both = [row for row in after.values() if row["caption_short"]]
    assert all(row["caption_short_by"] == f"{paligemma.name}@{row['caption_short_by'][-19:-7]}, short" for row in both)
    assert any(row["caption_short"] != row["caption_long"] for row in both)
    assert say(store, "--captioner", paligemma, "--max-tokens", 6) == 0
    assert f"{store}: 10 of 11 images described in caption_long, 0 now" in capsys.readouterr().out
    assert Mix.read(["alt=0.2", "short=0.4", "long=0.4"]).usable(store / "pairs.lance")
    assert say(store, "--captioner", paligemma, "--max-tokens", 7) == 2
    assert "max_tokens: 6 -> 7" in capsys.readouterr().err


def test_captions_whose_tokens_another_counted_are_gone_on_with(
    store: Path, paligemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (store, "--captioner", paligemma, "--styles", "short", "--max-tokens", 6)
    assert say(*words, "--count-tokens-by", "builtin:painter-alt") == 0
    assert say(*words) == 0
    out = capsys.readouterr().out
    assert "caption_short: tokens are counted by builtin:painter-alt, as was begun" in out
    assert "described in caption_short, 0 now" in out
    assert say(*words, "--count-tokens-by", "builtin:clip") == 2  # asked for, and not what is there
    assert "count_tokens_by: 'builtin:painter-alt' -> 'builtin:clip'" in capsys.readouterr().err


def test_killed_and_run_again_long_captions_are_as_if_it_had_not_been(
    store: Path, describer: Path, tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Describe(str(describer), "caption_long", style="long", max_tokens=6)
    add_columns(store, stage, "describe")
    inner, calls = LocalDescriber.describe, []

    def dies(self: LocalDescriber, *given: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(self, *given, **how)

    monkeypatch.setattr(LocalDescriber, "describe", dies)
    other = fill(tmp_path / "other", pictures)
    with pytest.raises(KeyboardInterrupt):
        add_columns(other, stage, "describe")
    add_columns(other, stage, "describe")
    assert told(other, "caption_long", "caption_long_by") == told(store, "caption_long", "caption_long_by")


def human_file(store: Path, count: int) -> Path:
    """Captions of the store's own images."""
    names = [row["pair_id"] for row in rows_of(store).values() if row["image"] not in (None, b"no picture")][:count]
    file = store.parent / "captions.jsonl"
    file.write_text(
        "".join(json.dumps({"pair_id": name, "text": "a red circle on the white square"}) + "\n" for name in names)
    )
    return file


def test_tuned_on_human_captions_first(store: Path, describer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        store,
        "--captioner",
        describer,
        "--human",
        human_file(store, 8),
        "--held-out",
        3,
        "--tune-steps",
        4,
        "--lora",
        0,
    ]
    words += ["--max-tokens", 5]
    assert say(*words) == 0
    out = capsys.readouterr().out
    assert "tuned on 5 captions of 5 images, best at step 4" in out
    assert "loss of held-out captions: " in out
    assert "10 of 11 images described in caption_long, 11 now" in out
    by = {row["caption_long_by"] for row in rows_of(store).values()} - {None}
    assert len(by) == 1
    assert by.pop().startswith("describer@")
    assert say(*words) == 0  # nothing is tuned or written again
    assert "tuned on" not in capsys.readouterr().out
    assert say(*words[:-4], "--lora", 2) == 2
    assert "lora: 0 -> 2" in capsys.readouterr().err


def test_a_store_without_a_picture_is_told_before_anything_is_tuned(
    tmp_path: Path, describer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"pair_id": "p", "caption_id": "c", "copy": 0, "unit": 0, "status": "failed"}
    folder = tmp_path / "failed"
    tables.append_unit(folder / "pairs.lance", 0, pairs.table([row], pairs.PAIRS))
    (tmp_path / "captions.jsonl").touch()
    for more in ((), ("--human", tmp_path / "captions.jsonl")):
        assert say(folder, "--captioner", describer, *more) == 2
        assert "nothing to look at; import pictures that can be read into a new folder" in capsys.readouterr().err
    assert not (folder / "checkpoints").exists()


def test_slips_are_one_line_before_any_work(
    store: Path, describer: Path, captioner: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = human_file(store, 8)
    slips: list[tuple[list[object], str]] = [
        (["--captioner", describer, "--human", few], "captions of 8 images, and 20 are held out to choose the best by"),
        (["--captioner", "builtin:writer"], "builtin:writer is a language model (llama) and cannot say what it sees"),
        (["--captioner", captioner, "--styles", "long"], "says one sentence and cannot be asked for a long one"),
        (["--captioner", captioner, "--human", few, "--held-out", 2], "is not tuned here: --human is for an image-text-to-text model"),
        (["--captioner", captioner, "--prompt-short", "a"], "which takes no prompt"),
        (["--captioner", describer, "--lora", 4], "--lora says how a captioner is tuned; give captions to tune it on: --human FILE"),
        (["--captioner", describer, "--styles", "short", "--prompt-long", "a"], "--prompt-long asks for a long caption, and none is written"),
        (["--captioner", describer, "--styles", "short", "long", "--column", "mine"], "--column names one column"),
        (["--captioner", store / "nowhere"], "there is no finished captioner"),
    ]  # fmt: skip
    for words, told_ in slips:
        assert say(store, *words) == 2, words
        error = capsys.readouterr().err.strip().splitlines()
        assert told_ in error[-1], error
    assert not (store / "columns").exists()
    assert not (store / "checkpoints").exists()
    with pytest.raises(InputError, match="--max-tokens -1"):
        Describe(str(describer), max_tokens=-1)
    add_columns(store, Describe(str(describer), max_tokens=4), "describe")
    with pytest.raises(SettingsChanged, match="max_tokens: 4 -> 5"):
        add_columns(store, Describe(str(describer), max_tokens=5), "describe")


def test_too_long_is_what_the_text_encoder_that_reads_it_says(store: Path, describer: Path) -> None:
    add_columns(store, Describe(str(describer), "by_own", max_tokens=60), "own")
    add_columns(store, Describe(str(describer), "by_clip", max_tokens=60, count_tokens_by="builtin:clip"), "clip")
    add_columns(
        store, Describe(str(describer), "by_painter", max_tokens=60, count_tokens_by="builtin:painter"), "painter"
    )
    rows = [row for row in rows_of(store).values() if row["by_own"]]
    long = [
        row for row in rows if len(row["by_own"].split()) > 38
    ]  # builtin:clip reads 40 tokens, start and end among them
    assert long
    for row in rows:
        assert ("too_long" in row["by_clip_flags"]) == ("too_long" in row["by_painter_flags"]) == (row in long)
        assert "too_long" not in row["by_own_flags"]
    assert "by_painter" in tables.column_names(store / "pairs.lance")
