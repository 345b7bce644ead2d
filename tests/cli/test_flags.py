"""Words that do not fit a command: one line with the flag, the value and what was expected, over all flags of all commands."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie.cli import data, predict, recipes, runs
from reverie.cli import show as show_command
from reverie.cli.flags import Option, options, what_is_wrong
from reverie.cli.main import COMMANDS, main
from reverie.run.plan import default_settings, find_recipe, find_study, known_recipes, known_studies
from tests.cli.test_main import Say, refused, say

__all__ = ["say"]  # the fixture

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "import": data.import_, "export": data.export, "tokenize": data.tokenize, "duplicates": data.duplicates, "recaption": data.recaption,
    "predict": predict.predict, "caption": predict.caption, "models": predict.models, "status": runs.status, "verify": runs.verify,
    "retry": runs.retry, "repaint": runs.repaint, "report": runs.report, "compact": runs.compact,
    "evaluate captions": predict.evaluate_captions, "evaluate diversity": predict.evaluate_diversity, "evaluate transfer": predict.evaluate_transfer,
    "evaluate cost": predict.evaluate_cost, "evaluate generation": predict.evaluate_generation, "evaluate text-shift": predict.evaluate_text_shift,
    "study-page": predict.study_page, "show": show_command.show,
}  # fmt: skip
FOUND = {f"run {name}": find_recipe(name) for name in known_recipes()}
FOUND |= {f"claims {name}": find_study(name) for name in known_studies()}


def options_of(command: str) -> list[Option]:
    """All that may be typed for a command."""
    if command in FUNCTIONS:
        return options(FUNCTIONS[command])

    def work(out: Path = Path("run"), device: str = "") -> None: ...

    recipe = FOUND[command]
    return options(recipes._with_settings(recipe, default_settings(recipe, None), work))


EVERY = [*FUNCTIONS, *FOUND]


def given(options: list[Option]) -> list[str]:
    """Words that are enough for a command."""
    words: list[str] = []
    for option in options:
        if option.is_required:
            hint = option.hint
            value = str(typing.get_args(hint)[0]) if typing.get_origin(hint) is typing.Literal else "x"
            words += [option.name, value] if option.is_flag else [value]
    return words


def slips(options: list[Option]) -> list[tuple[list[str], str]]:
    """Words that do not fit, one slip each, with what must be said of it."""
    found = []
    for option in options:
        if not option.is_flag:
            continue
        found.append(([f"{option.name}qx"], f"has no flag {option.name}qx; did you mean "))
        if option.is_switch:
            found.append(([f"{option.name}=x"], f"{option.name} takes no value"))
            continue
        if not option.takes_several:
            found.append(([option.name], f"{option.name} has no value; give {option.expected}"))
        kinds = str(option.hint)
        if not any(free in kinds for free in ("str", "Path")):
            for value in ("abc", "1.5x"):
                found.append(([option.name, value], f"{option.name} {value}: give {option.expected}"))
                found.append(([f"{option.name}={value}"], f"{option.name} {value}: give {option.expected}"))
    return found


def test_all_commands_are_looked_at() -> None:
    assert {name.split()[0] for name in EVERY} | {"make", "demo", "plan"} == set(COMMANDS)
    assert {name for name in EVERY if name.startswith("evaluate")} == {
        f"evaluate {name}" for name in predict.EVALUATIONS
    }


@pytest.mark.parametrize("command", EVERY)
def test_every_flag_says_what_it_expects(command: str) -> None:
    known = options_of(command)
    assert what_is_wrong(known, "reverie", given(known)) is None
    for words, said in slips(known):
        line = what_is_wrong(known, "reverie", [*given(known), *words])
        assert line is not None, words
        assert said in line, words
        assert "\n" not in line
    for option in known:
        if option.is_required:
            assert option.name in str(what_is_wrong(known, "reverie", []))
            rest = given([each for each in known if each != option])
            if option.is_flag:
                assert f"give {option.name}" in str(what_is_wrong(known, "reverie", rest))
    if all(option.is_flag or (option.is_required and not option.takes_several) for option in known):
        assert "'more'" in str(what_is_wrong(known, "reverie", [*given(known), "more"]))


@pytest.mark.slow
@pytest.mark.parametrize("command", EVERY)
def test_every_flag_of_the_command_line(command: str, say: Say) -> None:
    """The same as typed: what tyro refuses, and nothing else, is one line."""
    known = options_of(command)
    for words, said in slips(known):
        rest = given([option for option in known if option.name != words[0].partition("=")[0]])  # nothing twice
        line = refused(say(*command.split(), *rest, *words))
        assert said in line, words
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("make --seed abc", "--seed abc: give a whole number"),
        ("make --seed=1.5", "--seed 1.5: give a whole number"),
        ("make --sed 3", "reverie make has no flag --sed; did you mean --seed or --as?"),
        ("make --per-caption", "--per-caption has no value; give a whole number"),
        ("make guidance 3", "nothing is to be said by the word 'guidance' here; did you mean --guidance?"),
        ("make --image-format jpg", "--image-format jpg: give png, jpeg or webp; did you mean jpeg?"),
        ("run zero_shot --hard", "reverie run zero_shot has no flag --hard; did you mean --hard-pseudo-labels?"),
        ("run zero_shot --threshold x", "--threshold x: give a number or chance"),
        ("run stablerep --seeds 0 x", "--seeds x: give several, each a whole number"),
        ("run", "reverie run: give a recipe: "),
        ("plan", "reverie plan: give a recipe: "),
        ("plan mke", "unknown recipe 'mke'; did you mean make?"),
        ("plan make --trial x", "--trial x: give a whole number"),
        ("plan make --trial -1", "--trial -1: give 0 or more"),
        ("plan make --price-per-hour -2", "--price-per-hour -2.0: give 0 or more"),
        ("plan make --part 3/2", "--part 3/2: give k/n"),
        ("make --preview -1", "--preview -1: give 1 or more"),
        ("claims", "reverie claims: give a recipe: "),
        ("evaluate", "reverie evaluate: give a kind: captions, cost, diversity, generation, text-shift, transfer"),
        ("evaluate transfr x", "unknown kind of evaluation 'transfr'; did you mean transfer"),
        ("models chek", "reverie models chek: give list or check; did you mean check?"),
        ("status", "reverie status: give FOLDER; see reverie status --help"),
        ("study-page --json=x", "--json=x: --json takes no value; give --json or --no-json"),
        (
            "evaluate generation --no-tise-compat=x",
            "--no-tise-compat=x: --no-tise-compat takes no value; give --tise-compat or --no-tise-compat",
        ),
        ("status a b", "nothing is to be said by the word 'b' here; see reverie status --help"),
        ("import x", "reverie import: give --out; see reverie import --help"),
        ("staus x", "unknown command 'staus'; did you mean status"),
    ],
)
def test_slips_in_one_line(words: str, line: str, say: Say) -> None:
    assert refused(say(*words.split())).startswith(f"reverie: {line}")


def test_a_users_own_recipe_and_kinds_that_are_not_known(say: Say) -> None:
    Path("mine.py").write_text(
        "import datetime\nfrom reverie.run.plan import Plan\n\n\ndef mine(when: datetime.date = datetime.date(2020, 1, 1), many: int = 1) -> Plan:\n"
        "    raise SystemExit(7)\n"
    )
    assert "--many x: give a whole number" in refused(say("run", "mine.py", "--many", "x"))
    line = refused(say("run", "mine.py", "--when", "noon"))
    assert "--when" in line
    assert "noon" in line
    assert "see reverie run mine.py --help" in line
    assert say("run", "mine.py")[0] == 7


def test_what_a_command_says_while_it_works_is_not_held_back(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_work(words: list[str]) -> int:
        def function(number: int = 1) -> None:
            import sys

            print("at work", file=sys.stderr)
            sys.exit(2)

        from reverie.cli.common import command_of

        return command_of("status", function)(words)

    monkeypatch.setitem(COMMANDS, "status", at_work)
    code, _, err = say("status", "--number", "3")
    assert (code, err) == (2, "at work\n")
    with pytest.raises(SystemExit):
        main(["status", "--help"])


def test_the_demo_says_the_class_alone_unless_captions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(recipes, "_recipe", lambda command, name, words, **how: asked.append(words) or 0)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    for words in ([], ["--seeds", "0"], ["--classes", "x.txt"], ["--captions=x.txt"], ["--writer", "builtin:writer"]):
        recipes.demo(words)
    plain = ["--templates", "a {class}"]
    assert asked == [
        plain,
        [*plain, "--seeds", "0"],
        ["--classes", "x.txt"],
        ["--captions=x.txt"],
        ["--writer", "builtin:writer"],
    ]


def test_the_demo_computes_in_bf16_where_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(recipes, "_recipe", lambda command, name, words, **how: asked.append(words[2:]) or 0)
    monkeypatch.setattr(recipes, "find_device", lambda said: said or "cpu")
    half = ["--painter-dtype", "bf16", "--precision", "bf16"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for words in ([], ["--precision", "fp32"], ["--painter-dtype=fp32"]):
        recipes.demo(words)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    for words in ([], ["--device", "cuda"], ["--help"]):
        recipes.demo(words)
    assert asked == [
        half,
        ["--precision", "fp32"],
        ["--painter-dtype=fp32"],
        [],
        [*half, "--device", "cuda"],
        ["--help"],
    ]
