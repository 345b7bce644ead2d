"""What one recipe makes, another takes, as docs/combinations.md has it; the whole page is slow."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from reverie.cli.main import main
from reverie.errors import InputError
from reverie.learn.recaption import RecaptionPairs
from reverie.recipes.options import knows_smallworld_alone
from reverie.run.plan import Plan, call_recipe, find_recipe, recipe_scales
from reverie.settings import flat, resolve
from reverie.store import results, tables
from tests.recaption.conftest import save_captioner
from tests.recipes.test_recap import SMALL, describer

__all__ = ["describer"]  # a fixture

PAGE = Path(__file__).parents[2] / "docs" / "combinations.md"
FEW = {  # flags that make a command of the page small
    "recap": "--images smallworld:studio:24 --tune-steps 2 --tune-captions 6 --held-out 2 --base-steps 0 --train-steps 2 --batch-size 4 "
    "--sampler-steps 2 --prompts smallworld:human:4 --real smallworld:studio:6 --features pixels --over-limit cut",
    "stablerep": "--per-batch 2 --captions-per-batch 4 --train-steps 2 --seeds 0 --eval-data smallworld:street:128:64",
    "zero_shot": "--per-class 1 --per-caption 1 --epochs 1 --seeds 0 --sampler-steps 2 --eval-data smallworld:street:1:64",
    "syntic": "--sentences 24 --sampler-steps 1 --epochs 1 --width 32 --tag-heads 2 --eval-data smallworld:street:12",
}
PAINTS = "--per-caption 3 --sampler-steps 2"  # of StableRep, where it does not take the images of another run


def commands() -> list[list[str]]:
    """Of the page, in order."""
    return [shlex.split(line) for line in re.findall(r"^    reverie (.+)$", PAGE.read_text(encoding="utf-8"), re.M)]


def without(words: list[str], flags: set[str]) -> list[str]:
    """A command without some of its flags, each with one value."""
    return [word for place, word in enumerate(words) if word not in flags and words[max(0, place - 1)] not in flags]


def recap(captioner: Path, **flags: Any) -> Plan:
    return call_recipe("recap", SMALL | {"captioner": str(captioner), "arms": ("base", "alt", "short")} | flags)


def test_a_captioner_that_no_person_taught_recaptions_with_no_human_caption(tmp_path: Path) -> None:
    captioner = save_captioner(tmp_path / "captioner")
    steps = {step.name: step.stage for step in recap(captioner).steps}
    assert list(steps) == ["photos", "recaption", "base", "alt-0", "short-0", "generation", "page"]
    assert isinstance(steps["recaption"], RecaptionPairs)
    assert (steps["recaption"].captioner, steps["recaption"].styles) == (str(captioner), ("short",))
    with pytest.raises(
        InputError,
        match=r"says one sentence and no long one, which long and mix would read; give --arms base alt short and another",
    ):
        recap(captioner, arms=("base", "alt", "short", "long", "mix"))
    assert recap(captioner, arms=("alt", "mix"), mix=("alt=0.5", "short=0.5"))
    human = tmp_path / "captions.jsonl"
    human.write_text('{"image": "1.png", "text": "a red circle"}\n')
    with pytest.raises(InputError, match="is not tuned here: --human is for an image-text-to-text model"):
        recap(captioner, human_=human)


def test_a_server_is_asked_and_not_tuned() -> None:
    made = call_recipe("recap", SMALL | {"captioner": "openai:eyes@http://localhost:9/v1"})
    assert not {"human", "captioner"} & {step.name for step in made.steps}


def test_a_painter_that_was_trained_on_is_treated_like_the_builtin_one(tmp_path: Path) -> None:
    """It knows the small world's words and no others, so it is scored by the builtin CLIP model; a painter of other words is not."""
    folder = str(Path(__file__).parents[2] / "reverie" / "models" / "builtin" / "painter")
    for recipe in ("zero_shot", "stablerep", "recap", "syntic"):
        own, builtin = (call_settings(recipe, painter=painter) for painter in (folder, "builtin:painter"))
        assert own == builtin | {"painter": folder}
    other = tmp_path / "other" / "tokenizer"
    other.mkdir(parents=True)
    for words in ('{"model": {"vocab": {"red": 0, "circle": 1, "dog": 2}}}', '{"model": 3}', "no JSON"):
        (other / "tokenizer.json").write_text(words)
        assert not knows_smallworld_alone(str(other.parent))
    (other / "tokenizer.json").write_text('{"model": {"vocab": {"red": 0, "circle": 1, "<pad>": 2}}}')
    assert knows_smallworld_alone(str(other.parent))


def call_settings(recipe: str, **flags: Any) -> dict[str, Any]:
    """All settings of a recipe with these flags."""
    return flat(resolve(recipe_scales(find_recipe(recipe))["tiny"], flags))


@pytest.mark.slow
def test_the_commands_of_the_page(describer: Path, tmp_path: Path) -> None:
    for words in commands():
        kind = words[1] if words[0] == "run" else words[0]
        few = shlex.split(FEW.get(kind, ""))
        if kind == "stablerep" and "--images-from" not in words:
            few += shlex.split(PAINTS) + (["--per-class", "1"] if "--captions" not in words else [])
        own = without(words, {word for word in few if word.startswith("--")})
        own = [word.replace("runs/", f"{tmp_path}/").replace("builtin:describer", str(describer)) for word in own]
        if kind == "recap" and "--captioner" not in own:
            few += ["--captioner", str(describer)]
        with pytest.raises(SystemExit) as end:
            main([*own, *few, *([] if kind == "recaption" else ["--device", "cpu"])])
        assert end.value.code == 0, words
    assert {"caption_short", "caption_long"} <= set(tables.column_names(tmp_path / "stablerep" / "pairs.lance"))
    for run in ("stablerep", "stablerep-recaptioned", "stablerep-from-recaptions", "stablerep-recaptioned-painter"):
        measured = results.read(tmp_path / run / "results.jsonl")
        assert "stablerep" in {record.arm for record in measured}
    asked = {record.arm for record in results.read(tmp_path / "recap-without-people" / "results.jsonl")}
    assert asked == {"base", "alt", "short"}
    assert {record.arm for record in results.read(tmp_path / "zero-shot-recaptioned" / "results.jsonl")} >= {
        "zero-shot",
        "classifier",
    }
