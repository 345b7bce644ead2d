import json
import os

import pytest

from reverie.captions.llm import AskWriter, tidy
from reverie.captions.prompts import EXAMPLES, Prompt, default_prompt, read_prompt
from reverie.errors import InputError, UnknownName
from reverie.run.plan import call_recipe
from tests.captions.conftest import asked


class Kept:
    """A writer that keeps what it was asked."""

    revision = "kept@1"

    def __init__(self, chats=False):
        self.chats, self.asked = chats, []

    def write(self, prompts, seeds, max_tokens, temperature, top_p):
        self.asked += prompts
        self.temperature = temperature
        return [f"a {prompt}, {seed}" for prompt, seed in zip(prompts, seeds, strict=True)]


def prompts_of(stage, context, chats=False):
    writer = Kept(chats)
    stage.worker(writer, context)(asked(0, 0, stage.count))
    return writer.asked


def test_each_kind_of_model_is_asked_in_its_own_way(context):
    classes = {"classes": ("cat",), "max_tries": 1}
    (chat,) = prompts_of(AskWriter("some/chat", **classes), context, chats=True)
    assert chat.endswith(": cat")
    assert "caption alone" in chat or "sentence" in chat
    (base,) = prompts_of(AskWriter("some/base", **classes), context)
    assert base.endswith("\ncat: ")
    assert all(f"{name}: {caption}\n" in base for name, caption in EXAMPLES)
    assert prompts_of(AskWriter(classes=("cat",), max_tries=1), context) == ["class: cat"]
    assert prompts_of(AskWriter("some/chat", prompt="paint {class}", **classes), context, chats=True) == ["paint cat"]


def test_a_prompt_file(tmp_path, context):
    plain = tmp_path / "prompt.txt"
    plain.write_text("Say a {class}\nin one line: {class}\n", encoding="utf-8")
    assert read_prompt(plain, ["cat"]).of("cat") == "Say a cat\nin one line: cat"
    rich = tmp_path / "prompt.json"
    known = {
        "prompt": "{examples}{class} ({gloss}): ",
        "glosses": {"Crane": "a tall bird"},
        "examples": [["dog", "a dog runs"]],
    }
    rich.write_text(json.dumps(known), encoding="utf-8")
    prompt = read_prompt(rich, ["crane", "cat"])
    assert prompt.of("crane") == "dog: a dog runs\ncrane (a tall bird): "
    assert prompt.of("cat") == "dog: a dog runs\ncat: "  # no empty brackets
    assert Prompt("{class}{gloss}", {"crane": "a bird"}).of("crane") == "crane (a bird)"
    assert Prompt("{class}").of("{gloss}") == "{gloss}"  # a class may be called so
    stage = AskWriter("some/model", ("crane",), prompt=rich, max_tries=1)
    with pytest.raises(UnknownName, match="crane"):
        _ = AskWriter("some/model", ("cat",), prompt=rich).count
    assert prompts_of(stage, context) == ["dog: a dog runs\ncrane (a tall bird): "]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "no hole", r"has no \{class\}"),
        ("a.txt", "", r"has no \{class\}"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "is not a prompt"),
        ("a.json", '{"prompt": 3}', "'prompt' is not a text"),
        ("a.json", '{"prompt": "{class}", "examples": [["a"]]}', "an example is a list of two"),
        ("a.json", '{"prompt": "{class}", "glosses": ["a"]}', "'glosses' is not an object"),
    ],
)
def test_a_prompt_file_that_is_none(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        _ = AskWriter("some/model", ("cat",), prompt=tmp_path / name).count
    with pytest.raises(InputError, match="cannot read"):
        _ = AskWriter("some/model", ("cat",), prompt=tmp_path / "none.txt").count


def test_the_flags_of_make(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "prompt.txt").write_text("a {class}")
    chosen = {"prompt": tmp_path / "prompt.txt", "temperature": 0.5, "max_words": 9}
    plan = call_recipe("make", {"classes": tmp_path / "classes.txt", "writer": "some/model", **chosen})
    stage = plan.step("captions").stage
    assert (stage.prompt, stage.temperature, stage.max_words) == tuple(chosen.values())
    for name, value in chosen.items():
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} says how a language model is asked"):
            call_recipe("make", {"classes": tmp_path / "classes.txt", name: value})


def test_the_default_prompts_name_the_class_last():
    assert default_prompt(True).of("cat").endswith(": cat")
    assert default_prompt(False).of("cat").endswith("cat: ")


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("<think>a cat, hmm</think>\n\na photo of a cat", "a photo of a cat"),
        ("<think>\nlong\n</think>a cat", "a cat"),
        ("so the user wants a cat\n</think>\na cat sits", "a cat sits"),
        ("<THINK>x</THINK><think>y</think> a cat", "a cat"),
        ("<reasoning>x</reasoning>a cat", "a cat"),
        ('"A cat on a mat."', "A cat on a mat."),
        ("“a cat”", "a cat"),
        ("**A cat on a mat**", "A cat on a mat"),
        ("Caption: a cat", "a cat"),
        ('Caption: "a cat"', "a cat"),
        ("Sure! Here is a short caption for the photo:\n\n\"A cat naps.\"", "A cat naps."),
        ("Here's a caption: A cat naps.\nI hope this helps!", "A cat naps."),
        ("1. a cat\n2. a dog", "a cat"),
        ("- a cat", "a cat"),
        ("cat: a cat in the sun", "a cat in the sun"),
        ("a cat at 10:30 in the morning", "a cat at 10:30 in the morning"),
        ("\n\n  a cat\ndog: a dog", "a cat"),
        ("an old photo of a cat", "an old photo of a cat"),
    ],
)  # fmt: skip
def test_what_stands_around_a_caption_is_taken_away(text, caption):
    assert tidy(text, 300, 60, "cat") == (caption, None)


@pytest.mark.parametrize("text", ["<think>", "<think>a cat sits on a mat", "a cat <think> hmm"])
def test_a_thought_that_does_not_end_is_no_caption(text):
    caption, reason = tidy(text, 300, 60, "cat")
    assert caption == ""
    assert "thinking" in reason


def test_nothing_is_nothing():
    assert tidy("</think>", 300, 60) == ("", "empty")
    assert tidy("Caption:", 300, 60) == ("", "empty")


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "\ud83d {class}"},
        {"prompt": "{class} ({gloss})", "glosses": {"cat": "\ud83d"}},
        {"prompt": "{examples}{class}", "examples": [["cat", "\ud83d"]]},
    ],
)
def test_half_a_character_in_a_prompt_is_refused_before_any_work(tmp_path, given):
    (tmp_path / "prompt.json").write_text(json.dumps(given))
    with pytest.raises(InputError, match="half of a character"):
        read_prompt(tmp_path / "prompt.json", ["cat"])


@pytest.mark.parametrize("name", ["prompt.txt", "prompt.json"])
def test_a_prompt_that_is_a_named_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="named pipe"):
        read_prompt(tmp_path / name, ["cat"])
