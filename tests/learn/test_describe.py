"""A captioner that learns from people: what it is shown, what learns, which weights are kept, and slips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import pairs
from reverie.datasets.human_captions import hold_out, one_id_each, pictures_of, read_human_captions
from reverie.errors import InputError, ModelError, SettingsChanged
from reverie.learn.describe import Describing, TuneDescriber, examples, tuned
from reverie.models.describer import ABOUT, Decoding, asking_of, open_describer, place_of
from reverie.models.pretrained import load_processor
from reverie.stage import StepContext
from reverie.store import tables
from tests.models.describers import DESCRIBERS, save_paligemma
from tests.models.test_describer import pictures

TEXTS = ["a red circle", "two large blue square .", "a cat on the photo"]


@pytest.mark.parametrize("family", DESCRIBERS)
def test_labels_are_the_answers_and_a_model_that_learned_them_says_them(tmp_path: Path, family: str) -> None:
    folder = DESCRIBERS[family](tmp_path / family)
    processor, asking = load_processor(place_of(folder)), asking_of(place_of(folder))
    batch = examples(processor, asking, pictures(3), ["short"] * 3, TEXTS)
    for row, text in zip(batch["labels"], TEXTS, strict=True):
        assert processor.tokenizer.decode(row[row != -100]) == f"{text} <end>"
    learner = Describing(str(folder), lora=0)
    torch.manual_seed(0)
    net = learner.build()  # without dropout: there are three captions to learn by heart
    eyes = {name: weight.clone() for name, weight in net.named_parameters() if not weight.requires_grad}
    assert any("vision" in name or "visual" in name for name in eyes)
    optimizer = torch.optim.Adam([weight for weight in net.parameters() if weight.requires_grad], 1e-2)
    for _ in range(120):
        loss = learner.losses(net, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    assert all(torch.equal(weight, eyes[name]) for name, weight in net.named_parameters() if name in eyes)
    learner.save(net.eval(), tmp_path / "saved")
    assert open_describer(tmp_path / "saved").describe(pictures(3), [0] * 3, "short", Decoding(12)) == TEXTS


def human_file(folder: Path, count: int = 12, style: str = "long", **more: Any) -> Path:
    """Pictures of two colours, captioned by what they show."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(count):
        red = number % 2
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[..., 0 if red else 2] = 200 + number
        Image.fromarray(pixels).save(folder / f"{number}.png")
        text = "a large red circle ." if red else "two small blue square on white"
        lines.append({"image": f"{number}.png", "text": text, "style": style, "annotator": "a"} | more)
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def job(folder: Path, **changes: Any) -> TuneDescriber:
    """PaliGemma and six images."""
    if not (folder / "model").exists():
        save_paligemma(folder / "model")
        human_file(folder / "human")
    settings: dict[str, Any] = {
        "captioner": str(folder / "model"), "human": folder / "human" / "captions.jsonl", "steps": 8, "batch": 4, "lr": 1e-2, "lora": 0, "held_out": 4,
        "every": 3, "max_tokens": 8,
    }  # fmt: skip
    return TuneDescriber(**settings | changes)


def test_cut_short_it_looks_once(tmp_path: Path) -> None:
    trial = TuneDescriber(steps=300, every=25).trial(8, lambda where: 0)
    assert trial is not None
    assert (trial.steps, trial.job) == (300, TuneDescriber(steps=8, every=8))


def test_the_best_of_what_was_looked_at_is_kept_and_numbers_tell_before_from_after(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    context = StepContext(tmp_path / "run", "describer", report=lambda kind, **facts: told.append((kind, facts)))
    (tmp_path / "things.txt").write_text("circle\nsquare\n")
    job(tmp_path, steps=40, every=10, objects=tmp_path / "things.txt", prompt_short="red").run(context)
    about = json.loads((context.weights() / ABOUT).read_text())
    assert list(about["held_out_loss"]) == ["0", "10", "20", "30", "40"]
    assert about["best_step"] == int(min(about["held_out_loss"], key=lambda step: about["held_out_loss"][step]))
    assert about["after"]["loss"] == min(about["held_out_loss"].values()) < about["before"]["loss"]
    assert (about["images"], about["captions"], about["held_out"]) == (8, 8, 4)
    assert about["prompts"] == {"short": "red", "long": "describe en"}
    assert about["after"]["recall"] == 1
    assert about["after"]["hallucinated"] == 0
    assert about["after"]["words"] in (5, 5.5, 6)
    trained = next(facts for kind, facts in told if kind == "trained")
    assert trained["loss_after"] == about["after"]["loss"]
    # Opened by its run, it says what it learned, by its own prompts.
    describer = open_describer(tmp_path / "run")
    red = Image.fromarray(np.full((16, 16, 3), (230, 0, 0), np.uint8))
    assert describer.describe([red], [0], "long", Decoding(8)) == ["a large red circle ."]


def test_killed_and_run_again_it_is_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reverie.learn import describe

    job(tmp_path).run(StepContext(tmp_path / "whole", "describer"))
    inner, looks = describe._Look.__call__, []

    def dies(self: Any, step: int, net: Any) -> None:
        looks.append(step)
        if len(looks) == 2:
            raise KeyboardInterrupt
        inner(self, step, net)

    monkeypatch.setattr(describe._Look, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path).run(StepContext(tmp_path / "killed", "describer"))
    job(tmp_path).run(StepContext(tmp_path / "killed", "describer"))
    assert looks == [0, 3, 3, 6, 8]
    one, other = (
        json.loads((tmp_path / name / "weights" / "describer" / ABOUT).read_text()) for name in ("whole", "killed")
    )
    assert one == other


@pytest.mark.parametrize("lora", [0, 2])
def test_a_captioner_that_tuning_made_worse_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: int
) -> None:
    from reverie.learn import describe

    losses = iter((1.0, 2.0, 3.0))
    monkeypatch.setattr(describe._Look, "loss", lambda self, net: next(losses))
    context = StepContext(tmp_path / "run", "describer")
    if lora:
        pytest.importorskip("peft")
    job(tmp_path, steps=4, every=2, lora=lora).run(context)
    about = json.loads((context.weights() / ABOUT).read_text())
    assert about["best_step"] == 0
    assert about["after"] == about["before"]
    asked, before = ([0] * 4, "long", Decoding(8)), open_describer(tmp_path / "model")
    assert open_describer(context.weights()).describe(pictures(4), *asked) == before.describe(pictures(4), *asked)


def test_captions_that_could_not_be_used_bind_nobody(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    whole = job(tmp_path)
    assert isinstance(whole.human, Path)
    gone = tmp_path / "human" / "gone.jsonl"
    gone.write_text(whole.human.read_text().replace("0.png", "gone.png"))
    with pytest.raises(InputError, match=r"gone\.png"):
        tuned(tmp_path / "store", job(tmp_path, human=gone), "cpu", lambda *_, **__: None)
    assert tuned(tmp_path / "store", whole, "cpu", lambda *_, **__: None).exists()


def test_adapters_are_in_the_weights_that_are_saved(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    context = StepContext(tmp_path / "run", "describer")
    job(tmp_path, lora=2).run(context)
    assert not any("lora" in str(file) for file in context.weights().iterdir())
    describer = open_describer(context.weights())
    assert len(describer.describe(pictures(2), [0, 0], "long", Decoding(4))) == 2


def test_a_folder_without_a_plan_has_its_captioner_once(tmp_path: Path) -> None:
    found = tuned(tmp_path / "store", job(tmp_path), "cpu", lambda *_, **__: None)
    assert found == tmp_path / "store" / "weights" / "describer"
    when = (found / ABOUT).stat().st_mtime_ns
    assert tuned(tmp_path / "store", job(tmp_path), "cpu", lambda *_, **__: None) == found
    assert (found / ABOUT).stat().st_mtime_ns == when
    with pytest.raises(SettingsChanged, match=r"steps: 8 -> 9") as refused:
        tuned(tmp_path / "store", job(tmp_path, steps=9), "cpu", lambda *_, **__: None)
    assert "\n" not in str(refused.value)


# Slips


def test_fewer_captions_than_are_held_out_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has captions of 12 images, and 20 are held out to choose the best by; write more of them"
    ):
        job(tmp_path, held_out=20).check()
    with pytest.raises(InputError, match="12 images, and 12 are held out"):
        job(tmp_path, held_out=12).check()


def test_no_image_is_on_both_sides_and_the_split_is_the_same_every_time(tmp_path: Path) -> None:
    captions = read_human_captions(human_file(tmp_path)) * 2
    train, held = hold_out(captions, 4, tmp_path)
    assert (len(train), len(held)) == (16, 8)
    assert not {each.image_id for each in train} & {each.image_id for each in held}
    assert hold_out(reversed(captions), 4, tmp_path)[1] == held[::-1]


def test_one_image_is_one_however_it_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "human"
    human_file(folder, 4)
    (folder / "linked.png").symlink_to("1.png")
    (folder / "copy.png").write_bytes((folder / "2.png").read_bytes())
    names = ["0.png", "./0.png", "../human/0.png", str(folder / "0.png"), "1.png", "linked.png", "2.png", "copy.png"]
    rows = [{"image": name, "text": "a"} for name in names] + [
        {"pair_id": "p3", "text": "a"},
        {"image": "3.png", "text": "a"},
    ]
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    captions = read_human_captions(file)
    assert [each.image_id for each in captions[:7]] == ["0.png"] * 4 + ["1.png"] * 2 + ["2.png"]
    row = {
        "pair_id": "p3",
        "caption_id": "c",
        "copy": 0,
        "unit": 0,
        "image": (folder / "3.png").read_bytes(),
        "status": "ok",
    }
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table([row], pairs.PAIRS))
    one, found = one_id_each(captions, pictures_of(captions, tmp_path / "pairs.lance"))
    assert len(found) == 4
    train, held = hold_out(one, 2, file)
    assert {each.image_id for each in [*train, *held]} == found.keys()
    assert not {each.image_id for each in train} & {each.image_id for each in held}
    file.write_text('{"image": "a\\u0000.png", "text": "a"}\n')
    assert read_human_captions(file)[0].image_id == "a\0.png"  # that there is none, who reads it says


def test_what_unicode_takes_for_an_end_of_line_is_none_in_json(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    texts = ["a red\u2028circle", "a red\u2029circle", "a red\x85circle"]
    lines = [json.dumps({"image": "0.png", "text": text}, ensure_ascii=False) for text in texts]
    file.write_bytes("\r\n".join([*lines, ""]).encode())
    assert [each.text for each in read_human_captions(file)] == ["a red circle"] * 3


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", r"line 2 is no JSON"),
        ("[]", "line 2 is no human caption"),
        ('{"image": "0.png"}', "line 2 has no text"),
        ('{"text": "a red circle"}', "line 2 has no image and no pair_id"),
        ('{"image": "0.png", "text": "a", "style": "middle"}', "has the style 'middle'; a caption is short or long"),
        ('{"image": 3, "text": "a"}', "line 2 is no human caption"),
    ],
)
def test_a_line_that_is_no_caption_is_named(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "0.png", "text": "a red circle"}\n' + line + "\n")
    with pytest.raises(InputError, match=told):
        read_human_captions(file)


def test_what_cannot_be_tuned_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"builtin:writer is a language model .* cannot say what it sees"):
        job(tmp_path, captioner="builtin:writer").check()
    with pytest.raises(InputError, match="is not tuned here"):
        job(tmp_path, captioner="openai:model@http://localhost:1/v1").check()
    with pytest.raises(InputError, match="cannot be; give 1 or more"):
        job(tmp_path, every=0)
    file = tmp_path / "human" / "captions.jsonl"
    file.write_text(file.read_text().replace("0.png", "lost.png"))
    with pytest.raises(InputError, match=r"lost.png: there is no such file"):
        job(tmp_path).run(StepContext(tmp_path / "run", "describer"))
    file.write_text("\n".join(json.dumps({"pair_id": f"p{i}", "text": "a red circle"}) for i in range(9)))
    with pytest.raises(InputError, match="is named by a pair_id, and there is no store"):
        job(tmp_path).run(StepContext(tmp_path / "run", "describer"))
