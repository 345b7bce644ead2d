"""All flags of all recipes and studies: what help shows, what each changes, and that runs outlive a change of defaults."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from tyro._docstrings import get_field_docstring

from reverie.cli import main as cli
from reverie.cli import recipes as recipe_commands
from reverie.errors import InputError, ModelError, SettingsChanged, UnknownName
from reverie.ranges import RANGES, Range, check_ranges
from reverie.recipes import options, stablerep
from reverie.run.plan import (
    call_recipe,
    config_type,
    find_recipe,
    find_study,
    known_recipes,
    known_studies,
    plan_again,
    read_plan,
    recipe_scales,
)
from reverie.settings import change, flag, flat, helps, names, required, resolve

KINDS = {name: find_recipe(name) for name in known_recipes()}
KINDS |= {f"claims {name}": find_study(name) for name in known_studies()}
EVERY = [(name, scale) for name, recipe in KINDS.items() for scale in (recipe_scales(recipe) or {"": None})]
ABSENT = {  # what a person may truly do without; everything else has a default that is a value
    "around", "ask_templates", "glosses", "captioner", "captions", "captions_split", "captions_where", "classes", "clip", "context", "domain", "eval_data", "eval_images", "images_from", "label_column",
    "human_", "second_captioner", "limit", "more_classes", "max_kept", "objects", "paint_px", "painter_decoder_dtype", "prompt", "prompts", "real", "real_store", "refine_target", "scheduler", "shots_from", "start", "store_px",
    "support_split", "synonyms", "templates", "text_column", "text_lr", "transfer_shots", "until", "words", "writer",
}  # fmt: skip
FOLLOWS = {  # setting -> defaults that follow from it
    "as_": {"painter", "guidance", "sampler_steps", "keep"},
    "token_painter": {"guidance", "sampler_steps"},
    "painter": {
        "clip",
        "keep_best",
        "words",
        "scheduler",
        "sampler_steps",
        "view_min_area",
        "view_hue",
        "view_gray",
        "lr",
        "prompts",
        "real",
        "observer",
        "places",
    },
    "lora": {"lr"},
    "captioner": {"tune_steps", "tune_lora"},
    "clip": {"keep_best"},
    "classes": {"eval_data", "shots_from", "words", "per_class"},
    "domain": {"eval_data", "shots_from", "words"},
    "more_classes": {"eval_data", "per_class"},
    "captions": {"eval_data", "sentences"},
    "writer": {"words"},
    "templates": {"words"},
    "shots_from": {"eval_data"},
    "per_batch": {"lr", "mae_lr"},
    "captions_per_batch": {"lr", "mae_lr"},
    "crops": {"lr", "mae_lr"},
    "protocol": {"probe_augment"},
    "per_caption": {"unit_size", "per_class"},
    "num_images": {"per_class"},
    "painted_per_class": {"per_class"},
    "duplicates": {"keep"},
    "start": {"lr"},
    "pairs": {"eval_data"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What settings that name files need to find there."""
    root = tmp_path_factory.mktemp("files")
    (root / "classes.txt").write_text("red circle\nblue star\n")
    (root / "more.txt").write_text("desert\n")
    (root / "captions.csv").write_text("text,label\n" + "a red circle,x\na blue star,y\n" * 40)
    (root / "templates.txt").write_text("a view of a {class}\na drawing of a {class}\n")
    (root / "also.json").write_text('{"red circle": ["red disc"]}')
    (root / "domain.json").write_text(json.dumps({"shapes": {"classes": ["red circle", "blue star"]}}))
    (root / "captions.json").write_text('{"images": [], "annotations": []}')
    for split in ("train", "test"):
        (root / "photos" / split / "cat").mkdir(parents=True)
    return {
        "classes": root / "classes.txt", "more_classes": root / "more.txt", "captions": root / "captions.csv", "templates": str(root / "templates.txt"),
        "synonyms": root / "also.json", "domain": f"{root / 'domain.json'}:shapes", "eval_data": str(root / "photos"), "shots_from": str(root / "photos"),
        "words": "owner/t5", "writer": "owner/writer", "around": "seen: {caption}", "context": "a {class}", "scheduler": "euler", "text_column": "text",
        "label_column": "label", "captions_split": "train", "detector": "none", "levels": (0.5, 0.25), "guidances": (1.0, 3.0), "painter": "owner/painter", "clip": "owner/clip", "backbone": "vit-tiny",
        "store": root, "networks_from": root, "real_store": root / "real", "images_from": root / "run", "limit": 30, "max_kept": 2,
        "captions_per_batch": 16, "train_steps": 77, "warmup": 0.25, "downscale_px": (8,), "num_images": 320, "keep_best": 0.5, "sentences": 40,
        "trackers": ("wandb",), "per_batch": 2, "tag_heads": 2, "batch_size": 16, "second_class": 0.5, "scene": 0.5,
        "human": (2, 3, 4),
    }  # fmt: skip


def other(name: str, value: Any, hint: Any, files: dict[str, Any]) -> Any:
    """Another value of a setting."""
    if name in files and files[name] != value:
        return files[name]
    kinds = list(get_args(hint)) if get_origin(hint) not in (None, Literal, tuple) else [hint]
    for kind in kinds:
        if get_origin(kind) is Literal and len(get_args(kind)) > 1:
            return next(each for each in get_args(kind) if each != value)
        if get_origin(kind) is tuple:
            items = get_args(kind)[0]
            if get_origin(items) is Literal:
                return next((each,) for each in get_args(items) if (each,) != value)
            return {int: (3, 5), float: (0.25,), str: ("x",), Path: (Path("other"),)}[items]
    kind = next(kind for kind in kinds if kind in (bool, int, float, str, Path))
    if isinstance(value, str) and kind is float:  # a word in place of a number
        return 0.25
    return {
        bool: lambda: not value, int: lambda: (value or 0) + 1, float: lambda: (value or 0.0) / 2 + 0.125, str: lambda: "other",
        Path: lambda: Path("other"),
    }[kind]()  # fmt: skip


def hints(kind: type) -> dict[str, Any]:
    """The type of each setting, by name."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        found |= hints(hint) if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def words_for(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else flag(name).replace("--", "--no-", 1)]
    return [flag(name), *(map(str, value) if isinstance(value, tuple) else [str(value)])]


def read(name: str, words: list[str], out: str = "no-such-folder") -> Any:
    def work() -> None: ...

    return recipe_commands._settings(KINDS[name], work, "reverie", words, Path(out), name)[0]


def default(name: str, scale: str, files: dict[str, Any]) -> Any:
    """A recipe's default settings; those that it cannot do without are given."""
    base = recipe_scales(KINDS[name]).get(scale)
    if base is None:
        kind = config_type(KINDS[name])
        assert kind is not None
        base = kind(**{item: files[item] for item in required(kind)})
    return base


def said_by(name: str, scale: str, capsys: pytest.CaptureFixture[str]) -> str:
    words = name.split() if name.startswith("claims") else ["run", name]
    with pytest.raises(SystemExit):
        cli.main([*words, *(["--scale", scale] if scale not in ("", "default") else []), "--help"])
    return re.sub(r"[│╭╰─╮╯\s]+", " ", capsys.readouterr().out)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_help_shows_the_real_default_of_every_flag(
    name: str, scale: str, files: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    kind, said, base = config_type(KINDS[name]), said_by(name, scale, capsys), default(name, scale, files)
    assert kind is not None
    for item, value in flat(base).items():
        text = re.sub(r"\s+", " ", helps(kind)[item])
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else "''" if value == "" else str(value)
        ends = "(required)" if item in required(kind) else f"(default: {shown})"
        plain = re.sub(r"[ '\"]", "", said)
        assert re.sub(r"[ '\"]", "", f"{text} {ends}") in plain, f"--{item} of {name}"
        assert value is not None or item in ABSENT, f"--{item} of {name} has no default"
    assert said.count("(default: None)") == sum(value is None for value in flat(base).values()) + 3 * (
        not name.startswith("claims ")  # --until, --files and --preview
    )


def test_a_group_of_settings_is_headed_by_its_own_words() -> None:
    """tyro gives a comment that stands above a setting to the line below it as well."""

    def groups(kind: Any) -> None:
        for item, hint in typing.get_type_hints(kind).items():
            if dataclasses.is_dataclass(hint):
                assert get_field_docstring(kind, item, ()) is None, (
                    f"{kind.__name__}.{item}: leave a line free above it"
                )
                groups(hint)

    for recipe in KINDS.values():
        groups(config_type(recipe))


@pytest.mark.parametrize("name", KINDS)
def test_each_flag_sets_what_it_names(name: str, files: dict[str, Any]) -> None:
    """All flags at once, each with another value: a setting that got another flag's value, or none, would show."""
    kind = config_type(KINDS[name])
    assert kind is not None
    for scale in list(recipe_scales(KINDS[name]))[:1] or [""]:
        base, types = default(name, scale, files), hints(kind)
        values = {item: other(item, value, types[item], files) for item, value in flat(base).items()}
        if "scale" in values:
            values["scale"] = scale
        words = [word for item, value in values.items() for word in words_for(item, value)]
        assert flat(read(name, words).config) == values


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_each_flag_alone_sets_what_it_names_and_nothing_else(name: str, scale: str, files: dict[str, Any]) -> None:
    every_flag_alone(name, scale, files, lambda words, changes: read(name, words).config)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_each_setting_alone_changes_nothing_else(name: str, scale: str, files: dict[str, Any]) -> None:
    base = default(name, scale, files)
    every_flag_alone(name, scale, files, lambda words, changes: resolve(base, changes))


def every_flag_alone(name: str, scale: str, files: dict[str, Any], ask: Any) -> None:
    kind, base = config_type(KINDS[name]), default(name, scale, files)
    assert kind is not None
    types, usual = hints(kind), flat(base)
    always = [word for item in required(kind) for word in words_for(item, files[item])]
    always += ["--scale", scale] if "scale" in usual else []
    for item, value in usual.items():
        if item in ("scale", *required(kind)):
            continue
        new = other(item, value, types[item], files)
        assert new != value
        found = flat(ask([*always, *words_for(item, new)], {item: new}))
        changed = {each for each, was in usual.items() if found[each] != was}
        assert found[item] == new
        assert changed - {item} <= FOLLOWS.get(item, set()), f"--{item} of {name} at {scale}"


NEEDS: dict[str, dict[str, Any]] = {  # what must be there for a setting to say anything
    "text_column": {"captions": "captions", "captions_per_batch": 2}, "label_column": {"captions": "captions", "captions_per_batch": 2}, "limit": {"captions": "captions", "captions_per_batch": 2}, "synonyms": {"words": "builtin:words"},
    "around": {"words": "builtin:words"}, **{f"text_{part}": {"text_tower": True} for part in ("tokenizer", "width", "layers", "heads", "context", "out")},
    "queue": {"methods": ("mocov2",), "queue": 512}, "momentum": {"methods": ("mocov2",)}, "batchnorm_groups": {"methods": ("mocov2",)},
    **{f"decoder_{part}": {"methods": ("mae",), "arms": ("mae",), "backbone": "vit-tiny"} for part in ("width", "layers", "heads")},
    "mae_lr": {"arms": ("mae",)}, "precision": {"end_to_end_steps": 1}, "eval_images": {}, "beta": {}, "tag_threshold": {"detector": "builtin:detector"}, "human_first": {"mode": "finetune"},
    **{name: {"tokenizer": "train"} for name in ("codes", "tokenizer_channels", "tokenizer_steps", "tokenizer_batch")},
}  # fmt: skip
SILENT = {  # speed, names of other settings, and what other files than ours must hold
    "scale", "paint_batch", "trackers", "real_store", "images_from", "start", "captions_split", "networks_from", "store", "queue", "decoder_width", "decoder_heads", "batchnorm_groups", "text_width", "text_heads", "width",
    "tag_heads", "choose", "fill", "detector", "text_tokenizer", "eval_split", "backbone", "domain",
}  # fmt: skip
RECIPES = [(name, recipe) for name, recipe in KINDS.items() if recipe_scales(recipe) and " " not in name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), RECIPES, ids=[name for name, _ in RECIPES])
def test_each_setting_reaches_the_plan(name: str, recipe: Any, files: dict[str, Any]) -> None:
    def facts(config: Any) -> str:
        try:
            record = recipe(config).record()
        except (
            InputError,
            ModelError,
        ) as error:  # two settings that do not go together, and a model that is not there, are not silent either
            return str(error)
        return json.dumps([record["seed"], record["unit_size"], record["steps"]], sort_keys=True)

    kind, base = config_type(recipe), next(iter(recipe_scales(recipe).values()))
    assert kind is not None
    types = hints(kind)
    for item in names(kind):
        if item in SILENT:
            continue
        needs = {
            key: files.get(value, value) if isinstance(value, str) else value
            for key, value in NEEDS.get(item, {}).items()
        }
        needs = {key: value for key, value in needs.items() if key in types}
        before = resolve(base, needs)
        new = other(item, flat(before)[item], types[item], files)
        alone = needs | {item: new}
        if item == "painter" and "clip" in types:
            alone["clip"] = files["clip"]
            before = resolve(base, needs | {"clip": files["clip"]})
        if item in ("painter", "clip") and name == "syntic":
            continue  # public models must be able to see as well
        assert facts(before) != facts(resolve(base, alone)), f"--{item} of {name} changes nothing"


def test_a_flag_has_one_meaning() -> None:
    meanings: dict[str, set[tuple[str, str]]] = {}
    for recipe in KINDS.values():
        kind = config_type(recipe)
        assert kind is not None
        types = hints(kind)
        for item, text in helps(kind).items():
            of = {each for each in get_args(types[item]) or (types[item],) if each is not type(None)}
            plain = (
                "words"
                if any(get_origin(each) is Literal or each is str or isinstance(each, str) for each in of)
                else str(of)
            )
            meanings.setdefault(item, set()).add((text.split(";")[0], plain))
    assert {item: found for item, found in meanings.items() if len(found) > 1} == {}


def test_help_is_a_phrase_that_stands_alone() -> None:
    for recipe in KINDS.values():
        kind = config_type(recipe)
        assert kind is not None
        for item, text in helps(kind).items():
            assert text, f"{item} has no help"
            assert not re.match(r"(of|its|likewise|the same)\b", text), f"{item}: {text}"
            assert not text.endswith(".")


def test_help_names_flags_that_the_recipe_has() -> None:
    for name, recipe in KINDS.items():
        kind = config_type(recipe)
        assert kind is not None
        known = {options.flag(item) for item in helps(kind)} | {"--out", "--device"}
        for item, text in helps(kind).items():
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) <= known, f"{name}, {item}: {text}"


def test_the_page_of_flags_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "flags.md"
    assert page.read_text(encoding="utf-8") == options.page(), "run: make flags"


# Runs outlive a change of defaults


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """StableRep at a size that a test can do, as its tiny scale."""
    (tmp_path / "classes.txt").write_text("red circle\nblue square\n")
    small = change(
        stablerep.TINY, classes=tmp_path / "classes.txt", per_class=2, per_caption=2, per_batch=2, captions_per_batch=2, sampler_steps=2, paint_batch=2,
    )  # fmt: skip
    scales = {"tiny": small}
    monkeypatch.setattr(stablerep, "SCALES", scales)
    monkeypatch.chdir(tmp_path)
    return scales


def do(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*words])
    assert end.value.code == 0, words


def test_a_run_made_before_a_default_changes_goes_on(
    scales: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ("run", "stablerep", "--device", "cpu", "--out", "run", "--guidance", "3")
    do(*begin, "--until", "captions")
    record = read_plan(Path("run"))
    assert (record["arguments"]["guidance"], record["arguments"]["sampler_steps"]) == (3.0, 2)
    assert record["arguments"].keys() == set(names(stablerep.StableRepConfig))
    assert record["given"] == ["guidance"]
    prints = {step["name"]: step["fingerprint"] for step in record["steps"]}

    scales["tiny"] = change(scales["tiny"], sampler_steps=1, guidance=4.0, keep_best=0.5, lr=0.5, backbone="vit-tiny")
    do(*begin, "--until", "paint")  # resumed
    assert plan_again(Path("run")).fingerprints() == prints
    do("retry", "run")
    from reverie.store import tables

    pair = next(tables.scan("run/pairs.lance", ["pair_id", "steps"])).to_pylist()[0]
    assert pair["steps"] == 2
    do("repaint", "run", pair["pair_id"], "--out", "again.png")
    assert "the same bytes as the stored image" in capsys.readouterr().out

    with pytest.raises(SystemExit) as end:  # a flag that is left out is another setting, as it always was
        cli.main(["run", "stablerep", "--device", "cpu", "--out", "run", "--until", "paint"])
    assert end.value.code == 2
    assert "paint.guidance" in capsys.readouterr().err
    with pytest.raises(SettingsChanged, match=r"paint\.guidance"):
        stablerep.stablerep(resolve(scales["tiny"], {})).settle(Path("run"))


def test_defaults_that_follow_are_kept_as_they_were(scales: dict[str, Any]) -> None:
    begin = ("run", "stablerep", "--device", "cpu", "--out", "run", "--per-class", "4", "--captions-per-batch", "4")
    do(*begin, "--until", "captions")
    record = read_plan(Path("run"))
    assert record["arguments"]["lr"] == pytest.approx(2 * flat(scales["tiny"])["lr"])
    assert set(record["given"]) == {"per_class", "captions_per_batch"}
    scales["tiny"] = change(scales["tiny"], lr=0.5, clip="owner/other")
    found = read("stablerep", [*begin[2:][4:]], "run").config
    assert flat(found)["lr"] == record["arguments"]["lr"]
    assert found.clip == "builtin:clip"
    do(*begin, "--until", "captions")


def test_a_setting_that_is_no_more_is_told(scales: dict[str, Any]) -> None:
    do("run", "stablerep", "--device", "cpu", "--out", "run", "--until", "captions")
    path = Path("run/plan.json")
    record = json.loads(path.read_text())
    record["arguments"]["colour"] = "blue"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="a setting that it does not have: 'colour'"):
        plan_again(Path("run"))


DAMAGED = [
    ("guidance", "abc", "give a number"), ("guidance", None, "give a number"), ("per_caption", [1, 2], "give a whole number"),
    ("per_caption", 1.5, "give a whole number"), ("per_caption", True, "give a whole number"), ("captions", ["a"], "give a path or None"),
    ("clip", {"a": 1}, "give a text or None"), ("painter_dtype", "fp99", "give fp32, bf16 or fp16"), ("seeds", [1, "a"], "give several, each a whole number"),
    ("arms", "simclr", "give several, each stablerep, simclr, clip or mae"), ("duplicates", 1, "give True or False"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "said"), DAMAGED)
def test_a_setting_of_another_kind_is_told(
    name: str,
    value: Any,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In Python, and in the plan of a run that is to go on."""
    with pytest.raises(InputError, match=said):
        change(stablerep.TINY, **{name: value})
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    call_recipe("stablerep", {}).settle(Path("run"))
    record = json.loads(Path("run/plan.json").read_text())
    record["arguments"][name] = value
    Path("run/plan.json").write_text(json.dumps(record))
    for words in (("run", "stablerep", "--out", "run", "--until", "captions"), ("retry", "run")):
        with pytest.raises(SystemExit) as end:
            cli.main([*words])
        assert end.value.code == 2
        assert re.fullmatch(rf"reverie: .*plan\.json.*{said}.*\n", capsys.readouterr().err)


def test_a_whole_number_is_a_float_where_one_is_asked_for() -> None:
    assert (
        call_recipe("stablerep", {"guidance": 3}).fingerprints()
        == call_recipe("stablerep", {"guidance": 3.0}).fingerprints()
    )


def test_of_two_scales_the_last_counts() -> None:
    assert read("stablerep", ["--scale", "tiny", "--scale", "small"]).config == stablerep.SCALES["small"]


def test_a_users_recipe_may_be_a_function_with_keyword_arguments_or_have_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("a cat\na dog\na fox\n")
    head = "from dataclasses import dataclass\nfrom pathlib import Path\nfrom reverie.captions.corpus import ReadCorpus\nfrom reverie.run.plan import Plan, Step\n"
    (tmp_path / "plain.py").write_text(
        f"{head}def plain(limit: int = 2) -> Plan:\n    return Plan('plain', (Step('captions', ReadCorpus(Path('words.txt'), limit=limit)),))\n"
    )
    (tmp_path / "typed.py").write_text(
        f"{head}@dataclass(frozen=True)\nclass Config:\n    limit: int = 2  # captions to take\n\n\ndef typed(config: Config) -> Plan:\n"
        "    return Plan('typed', (Step('captions', ReadCorpus(Path('words.txt'), limit=config.limit)),))\n"
    )
    for name in ("plain", "typed"):
        do("run", f"{name}.py", "--limit", "3", "--device", "cpu", "--out", name)
        assert (read_plan(Path(name))["arguments"], read_plan(Path(name))["given"]) == ({"limit": 3}, ["limit"])
        do("retry", name)
    with pytest.raises(SystemExit):
        cli.main(["run", "typed.py", "--help"])
    assert "captions to take (default: 2)" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_settings_are_refused_where_they_are_not_known() -> None:
    with pytest.raises(UnknownName, match="gidance"):
        change(stablerep.TINY, gidance=3.0)
    with pytest.raises(InputError, match="give --networks-from"):
        call_recipe("episodes", {"eval_data": "photos"})


PAINTING = [name for name, recipe in KINDS.items() if "sampler_steps" in names(config_type(recipe))]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PAINTING)
@pytest.mark.parametrize("slip", ["--paint-px 20", "--sampler-steps 5000"])
def test_what_the_painter_cannot_do_is_told_before_any_work(
    name: str, slip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = config_type(KINDS[name])
    assert kind is not None
    if slip.split()[0][2:].replace("-", "_") not in names(kind):
        pytest.skip(f"{name} has no {slip.split()[0]}")
    monkeypatch.chdir(tmp_path)
    words = name.split() if name.startswith("claims") else ["run", name]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, *slip.split(), "--device", "cpu"])
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search("--paint-px 20 does not fit .*multiple of 8, such as 16|steps must be from 1 to 1000", line), line
    assert not list(tmp_path.iterdir())


IDLE = {  # recipe -> flags that say nothing by themselves, and what makes them speak
    "stablerep": [
        *(
            (f"text_{part}", {"text_tower": True})
            for part in ("tokenizer", "width", "layers", "heads", "context", "out")
        ),
        ("text_width", {"arms": ("stablerep", "clip")}),
        *((f"decoder_{part}", {"arms": ("mae",), "backbone": "vit-tiny"}) for part in ("width", "layers", "heads")),
    ],
    "synthetic_pretraining": [
        *((name, {"methods": ("mocov2",)}) for name in ("queue", "momentum", "batchnorm_groups")),
        *((f"decoder_{part}", {"methods": ("mae",), "backbone": "vit-tiny"}) for part in ("width", "layers", "heads")),
    ],
    "syntic": [("tag_threshold", {}), ("max_tags", {}), ("refine_lr", {}), ("refine_max_own", {})],
}
MUTE = {  # what makes those of syntic say nothing; those of the others do not unless asked
    "stablerep": {"arms": ("stablerep", "simclr")}, "synthetic_pretraining": {"methods": ("supervised",)}, "tag_threshold": {"detector": "none"},
    "max_tags": {"detector": "none"}, "refine_lr": {"refine_steps": 0}, "refine_max_own": {"refine_guard": False},
}  # fmt: skip


@pytest.mark.parametrize(("name", "item", "speaks"), [(name, *row) for name, rows in IDLE.items() for row in rows])
def test_a_flag_that_says_nothing_is_refused(
    name: str, item: str, speaks: dict[str, Any], files: dict[str, Any]
) -> None:
    base = recipe_scales(KINDS[name])["tiny"]
    value = {"text_heads": 2, "queue": 128, "batchnorm_groups": 2, "text_tokenizer": "owner/clip"}.get(item) or other(
        item, flat(base)[item], hints(type(base))[item], {}
    )
    mute = MUTE.get(item) or MUTE.get(name, {})
    with pytest.raises(InputError, match=f"{flag(item)} says nothing here: it belongs to "):
        change(base, **mute | {item: value}).check()
    change(base, **{**speaks, item: value}).check()
    change(base, **mute).check()


FREE = {"seed", "seeds", "margin", "min_score", "refine_target"}  # any number makes sense


def has_numbers(hint: Any) -> bool:
    return hint in (int, float) or any(has_numbers(part) for part in get_args(hint) if get_origin(hint) is not Literal)


def out_of(usual: Range) -> list[float]:
    """Numbers on the wrong side of each end, as near as whole ones can be."""
    below = [usual.low - 1] if usual.has_low else [usual.low, usual.low - 1]
    return [*below, math.inf] + (
        [usual.high + 1, *([] if usual.has_high else [usual.high])] if usual.high < math.inf else []
    )


@pytest.mark.parametrize("name", KINDS)
def test_every_number_has_a_range_and_one_outside_is_told_by_its_flag(name: str, files: dict[str, Any]) -> None:
    """Before anything else is looked at, so that no other setting is blamed for it."""
    base = default(name, "tiny" if "tiny" in recipe_scales(KINDS[name]) else "", files)
    needed = {key: files[key] for key in required(type(base))}

    def told(given: dict[str, Any]) -> None:
        if name.startswith("claims"):
            check_ranges(given)
        else:
            call_recipe(name, needed | given)

    for item, hint in hints(type(base)).items():
        if not has_numbers(hint) or item in FREE or (not isinstance(flat(base)[item], tuple) and "str" in str(hint)):
            continue
        if name.startswith("claims") and item not in RANGES:
            continue  # studies have numbers of their own
        assert item in RANGES, f"{item} of {name} has no range"
        for number in out_of(RANGES[item]):
            if number == math.inf and "float" not in str(hint):
                continue
            value = (number,) if get_origin(hint) is tuple else number
            given = {item: int(number) if number != math.inf and hint is int else value}
            with pytest.raises(InputError) as refused:
                told(given)
            assert str(refused.value).startswith(f"--{item.replace('_', '-')} "), (item, number, str(refused.value))
            assert "give " in str(refused.value)
