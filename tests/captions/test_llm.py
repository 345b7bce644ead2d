import dataclasses

import pytest

from reverie.captions.llm import AskWriter, words_missing
from reverie.captions.word_to_sentence import WordToSentence
from reverie.errors import InputError, ModelError
from reverie.pairs import CAPTIONS
from reverie.seeds import derive
from tests.captions.conftest import asked
from tests.models import tiny


class Scripted:
    """A writer whose answer is a function of prompt and seed number (how often this prompt was asked)."""

    revision = "scripted@1"

    def __init__(self, answer):
        self.answer, self.calls, self.times = answer, [], {}

    def write(self, prompts, seeds, max_tokens, temperature, top_p):
        self.calls.append(list(zip(prompts, seeds, strict=True)))
        texts = []
        for prompt in prompts:
            self.times[prompt] = self.times.get(prompt, -1) + 1
            texts.append(self.answer(prompt, self.times[prompt]))
        return texts


def rows_of(stage, writer, context, num=None):
    return stage.worker(writer, context)(asked(0, 0, num or stage.count))


def test_good_captions(context):
    stage = AskWriter(classes=("cat", "dog"), per_class=2)
    writer = Scripted(lambda prompt, time: f'"a {prompt.removeprefix("class: ")}, picture {time}"\nand more')
    table = rows_of(stage, writer, context)
    assert table.schema == CAPTIONS
    assert table["text"].to_pylist() == ["a cat, picture 0", "a cat, picture 1", "a dog, picture 0", "a dog, picture 1"]
    assert table["label"].to_pylist() == [
        "cat",
        "cat",
        "dog",
        "dog",
    ]  # classes together: their repeats meet in one unit
    assert set(table["status"].to_pylist()) == {"ok"}
    first = table.to_pylist()[0]
    assert first["seed"] == derive("caption", context.seed, first["caption_id"], 0)
    assert (first["writer"], first["prompt"], first["source"]) == ("scripted@1", "class: cat", "llm")


def test_refused_captions_are_kept_and_asked_again_with_another_seed(context):
    def answer(prompt, time):
        return ["", "a photo of a horse", "123", "a cat"][time] if "cat" in prompt else "a dog"

    stage = AskWriter(classes=("cat", "dog"))
    writer = Scripted(answer)
    rows = rows_of(stage, writer, context).to_pylist()
    cats = [row for row in rows if row["label"] == "cat"]
    assert [row["reason"] for row in cats] == ["empty", "does not name its class: cat is missing", "no letters", None]
    assert [row["status"] for row in cats] == ["dropped"] * 3 + ["ok"]
    assert len({row["caption_id"] for row in rows}) == len({row["seed"] for row in rows}) == 5
    assert [len(call) for call in writer.calls] == [2, 1, 1, 1]  # only what is left is asked again


def test_captions_are_said_in_the_context(context):
    said = ["A forest from above.", "a forest from above", "a forest in winter", f"a forest {'very ' * 30}far away"]
    stage = AskWriter(
        classes=("forest",), per_class=2, max_tries=2, max_chars=170, context="a satellite photo of {caption}, land"
    )
    rows = rows_of(stage, Scripted(lambda prompt, time: said[time]), context).to_pylist()
    assert [(row["text"], row["reason"]) for row in rows] == [
        ("a satellite photo of A forest from above, land", None),
        ("a forest from above", "duplicate within its unit"),
        ("a satellite photo of a forest in winter, land", None),
    ]
    stage = AskWriter(classes=("forest",), max_chars=170, context=stage.context)
    rows = rows_of(stage, Scripted(lambda prompt, time: said[3 - time]), context).to_pylist()
    assert [row["reason"] for row in rows] == ["longer than 170 characters", None]
    with pytest.raises(InputError, match=r"must hold \{caption\} once"):
        AskWriter(classes=("forest",), context="a satellite photo")


def test_duplicates_within_a_unit(context):
    stage = AskWriter(classes=("cat",), per_class=2, max_tries=2)
    rows = rows_of(stage, Scripted(lambda prompt, time: ["A cat.", "a cat", "a black cat"][time]), context).to_pylist()
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("ok", None),
        ("dropped", "duplicate within its unit"),
        ("ok", None),
    ]


def test_given_up_after_max_tries(context):
    stage = AskWriter(classes=("cat", "dog"), max_tries=3)
    rows = rows_of(stage, Scripted(lambda prompt, time: "a cat"), context).to_pylist()
    dogs = [row for row in rows if row["label"] == "dog"]
    assert [row["status"] for row in dogs] == ["dropped"] * 3 + ["failed"]
    assert dogs[-1]["reason"] == "no usable caption in 3 tries, the last one: does not name its class: dog is missing"
    assert sum(row["status"] != "dropped" for row in rows) == 2  # one ok or failed row for each position


def test_class_need_not_be_named(context):
    stage = AskWriter(classes=("cat",), names_class=False)
    assert rows_of(stage, Scripted(lambda prompt, time: "a small tiger"), context)["status"].to_pylist() == ["ok"]


def test_without_classes(context):
    stage = AskWriter(prompt="describe a street", per_class=3)
    table = rows_of(stage, Scripted(lambda prompt, time: f"street number {time}"), context)
    assert stage.count == len(table) == 3
    assert table["label"].to_pylist() == [None] * 3


@pytest.mark.parametrize(
    ("caption", "label", "missing"),
    [
        ("A Red circle", "red circle", []),
        ("a circle that is red", "red circle", []),
        ("two red circles", "red_circle", []),
        ("butterflies in a box", "butterfly", []),
        ("foxes", "fox", []),
        ("a reddish circle", "red circle", ["red"]),
        ("a category", "cat", ["cat"]),
        ("一只黑猫坐着", "黑猫", []),
        ("一只狗", "黑猫", ["黑猫"]),
        ("a c++ book", "c++", []),
    ],
)
def test_words_missing(caption, label, missing):
    assert words_missing(caption, label) == missing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("cat",), "prompt": "write"}, r"has no \{class\}"),
        ({}, "needs a prompt"),
        ({"prompt": "of {class}"}, "no classes are given"),
        ({"classes": ("cat",), "top_p": 0.0}, "top_p"),
        ({"classes": ("cat",), "temperature": -1.0}, "temperature"),
        ({"classes": ("cat",), "temperature": float("inf")}, "temperature"),
        ({"classes": ("cat",), "max_tries": 0}, "max_tries"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        AskWriter(**options)


def test_a_model_is_looked_for_before_any_work_and_a_server_when_it_is_needed(tmp_path):
    with pytest.raises(ModelError, match=r"no model file .*missing\.gguf"):
        AskWriter(str(tmp_path / "missing.gguf"), ("cat",)).check()
    AskWriter("openai:m@http://localhost:9/v1", ("cat",)).check()
    WordToSentence(("cat",), 1, "openai:m@http://localhost:9/v1").check()


def test_class_list_is_checked():
    with pytest.raises(InputError, match="twice"):
        _ = AskWriter(classes=("cat", "cat")).count


def test_with_a_real_model_units_do_not_depend_on_each_other(context, tmp_path):
    folder = tiny.save_writer(tmp_path / "writer")
    stage = AskWriter(writer=str(folder), classes=("cat", "dog"), per_class=4, names_class=False, max_tokens=6)
    worker = stage.open(context)
    second = worker(asked(1, 4, 8))
    assert second.equals(stage.open(context)(asked(1, 4, 8)))
    assert set(worker(asked(0, 0, 4))["caption_id"].to_pylist()).isdisjoint(second["caption_id"].to_pylist())
    assert set(second["writer"].to_pylist()) == {f"writer@{second['writer'][0].as_py().split('@')[1]}"}


def test_tokens_that_a_writer_reads_and_writes_are_told(context, tmp_path):
    events = []
    told = dataclasses.replace(context, report=lambda kind, **facts: events.append((kind, facts)))
    folder = tiny.save_writer(tmp_path / "writer")
    stage = AskWriter(writer=str(folder), classes=("cat",), per_class=2, names_class=False, max_tokens=6, max_tries=1)
    stage.open(told)(asked(0, 0, 2))
    ((_kind, facts),) = [event for event in events if event[0] == "tokens"]
    assert 2 <= facts["read"] < 100
    assert 1 <= facts["written"] <= 12
    events.clear()
    rows_of(AskWriter(classes=("cat",)), Scripted(lambda prompt, time: "a cat in the sun"), told)
    assert not [kind for kind, _ in events if kind == "tokens"]
