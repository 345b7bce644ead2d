import itertools
import json
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from reverie.captions.class_captions import (
    ASKED,
    AskAboutClasses,
    AskFreely,
    read_glosses,
    shared_out,
    without_stem,
)
from reverie.errors import InputError
from tests.captions.test_llm import Scripted, rows_of

NAMES = tuple(f"item{letter}" for letter in "abcdefghijklmnopqrst")


class Chat(Scripted):
    chats = True


def about(prompt, names=NAMES):
    return min((name for name in names if name in prompt), key=prompt.index)


def stage(**settings):
    return AskAboutClasses(**{"writer": "some-model", "classes": NAMES, "per_class": 5, **settings})


def counted(names=NAMES):
    number = itertools.count()
    return lambda prompt, time: f"one {about(prompt, names)} stands here number {next(number)}"


def prompts_of(settings, context, chats=True):
    return rows_of(stage(**settings), (Chat if chats else Scripted)(counted()), context).to_pylist()


def test_templates_take_turns_and_every_class_is_asked_as_often(context):
    rows = prompts_of({"second": 0, "scene": 0}, context)
    assert Counter(row["label"] for row in rows) == dict.fromkeys(NAMES, 5)
    for name in NAMES:
        own = [row["prompt"] for row in rows if row["label"] == name]
        assert own != sorted(own)
        fills = {template.replace("{class}", name).replace("{gloss}{extra}", "") for template in ASKED}
        assert set(own) == fills  # each of the five once
    plain = prompts_of({"second": 0, "scene": 0}, context, chats=False)
    assert len({row["prompt"].replace(row["label"], "") for row in plain}) == 4


def test_second_concepts_and_scenes_come_in_their_shares_and_from_the_position_alone(context):
    rows = prompts_of({"second": 0.5, "scene": 0.25, "scenes": ("in a cave",), "per_class": 20}, context)
    both = [" and item" in row["prompt"] for row in rows]
    places = ["in a cave" in row["prompt"] for row in rows]
    assert np.mean(both) == pytest.approx(0.5, abs=0.08)
    assert np.mean(places) == pytest.approx(0.25, abs=0.08)
    assert all(f"{row['label']} and {row['label']}" not in row["prompt"] for row in rows)
    later = stage(second=0.5, scene=0.25, scenes=("in a cave",), per_class=20)
    from tests.captions.conftest import asked

    part = later.worker(Chat(counted()), context)(asked(3, 100, 140)).to_pylist()
    assert [row["prompt"] for row in part] == [row["prompt"] for row in rows[100:140]]


@pytest.mark.parametrize(
    ("text", "kept", "reason"),
    [
        ("This is an image of a red cat on a mat.", "a red cat on a mat.", None),
        ("In the photo, there is a cat beside a lamp", "a cat beside a lamp", None),
        ("The image shows a photo of a cat that sleeps there", "a cat that sleeps there", None),
        ("A scene of two cats who play with wool", "two cats who play with wool", None),
        ("Caption: a kitten sits on the old chair", "a kitten sits on the old chair", None),
        ("I'm sorry, but I cannot describe a cat that I see", None, "a refusal, or talk about the task"),
        ("As an AI language model I have no cat", None, "a refusal, or talk about the task"),
        ("Here is a short caption: a cat on a mat in the sun", None, "a refusal, or talk about the task"),
        ("Sorry, I can’t help with that cat of yours", None, "a refusal, or talk about the task"),
        ('"I’m unable to see the cat in it"', None, "a refusal, or talk about the task"),
        ("<think>a cat</think>Unfortunately, I cannot write about this cat", None, "a refusal, or talk about the task"),
        ("A cat sits there. I cannot describe it any further.", None, "a refusal, or talk about the task"),
        ("We are unable to provide a description of a cat", None, "a refusal, or talk about the task"),
        ("A cat on a mat. Let me know if you want more", None, "a refusal, or talk about the task"),
        ("Please provide more details about the cat you mean", None, "a refusal, or talk about the task"),
        ("the sign says I can't see the cat here", "the sign says I can't see the cat here", None),
        ("I will not forget this cat", "I will not forget this cat", None),
        ("a poster says I am sorry to a cat", "a poster says I am sorry to a cat", None),
        ("a girl with a cat cannot write yet", "a girl with a cat cannot write yet", None),
        ("a cat and a note that reads let me know", "a cat and a note that reads let me know", None),
        ("a toy cat beside an AI assistant", "a toy cat beside an AI assistant", None),
        ("A photo taken of a cat on a mat", "a cat on a mat", None),
        ("A scenic picture of a cat on a wall", "a cat on a wall", None),
        ("This is a lovely close-up photo of a cat on a mat", "a cat on a mat", None),
        ("a photo taken down by a cat", "a photo taken down by a cat", None),
        ("a framed picture of a cat hangs there", "a framed picture of a cat hangs there", None),
        ("a cat sleeps", "a cat sleeps", "fewer than 5 words"),
        ("This is an image of a cat on mats", "a cat on mats", "fewer than 5 words"),
        ("a cat " + "and more " * 30, None, "more than 50 words"),
        ("a dog sleeps on the mat", "a dog sleeps on the mat", "does not name its class: cat is missing"),
        ("a photographer of cats stands in the rain", "a photographer of cats stands in the rain", None),
    ],
)
def test_what_is_a_caption(context, text, kept, reason):
    asks = stage(classes=("cat", "lamp"), per_class=1, synonyms={"cat": ("kitten",)}, max_tries=1)
    caption, why = asks._judged(text, "cat", set())
    assert why == reason
    assert kept is None or caption == kept


def test_a_repeated_caption_is_asked_for_again(context):
    texts = iter(["a cat sits on a mat", "a cat sits on a mat", "a dog sits on a mat", "a cat stands near a tree"])
    asks = stage(classes=("cat", "dog"), per_class=2, names_class=False)
    rows = rows_of(asks, Chat(lambda prompt, time: next(texts, "a bird flies over the sea")), context).to_pylist()
    kept = [row["text"] for row in rows if row["status"] == "ok"]
    assert len(kept) == len(set(kept)) == 4
    assert [row["reason"] for row in rows if row["status"] == "dropped"] == ["duplicate within its unit"]


def test_captions_asked_without_a_class_are_cleaned_alike():
    asks = AskFreely("some-model", prompt="Write the caption of a photo.")
    taken = set()
    assert asks._judged("This is an image of a red cat on a mat.", None, taken) == ("a red cat on a mat.", None)
    for text, why in [
        ("I'm sorry, but I cannot describe that", "a refusal, or talk about the task"),
        ("a cat sleeps", "fewer than 5 words"),
        ("a cat " + "and more " * 30, "more than 50 words"),
        ("A red cat on a mat.", "duplicate within its unit"),
    ]:
        assert asks._judged(text, None, taken)[1] == why
    with pytest.raises(InputError, match="captions of 9 to 3 words cannot be"):
        AskFreely("some-model", prompt="Write.", min_words=9, max_words=3)


def test_a_stem_alone_stays():
    assert without_stem("this is an image of") == "this is an image of"
    assert without_stem("a picture frame on a wall") == "a picture frame on a wall"


def test_balance_shares_out_the_same_number(context):
    for balance in ("uniform", "one-in-ten", "frequency"):
        assert stage(balance=balance).count == 100
    few = Counter(row["label"] for row in prompts_of({"balance": "one-in-ten"}, context))
    assert sorted(few.values()) == [50, 50]
    many = Counter(row["label"] for row in prompts_of({"balance": "frequency"}, context))
    assert [many[name] for name in NAMES] == shared_out(100, 1 / np.arange(1, 21)).tolist()
    assert many[NAMES[0]] == 28
    assert shared_out(7, np.ones(3)).tolist() == [3, 2, 2]


def test_glosses(tmp_path, context, monkeypatch):
    file = tmp_path / "glosses.json"
    file.write_text(json.dumps({"Crane": "a tall bird", "bat": "an animal", "unknown": "x"}))
    asks = stage(classes=("crane", "dog"), glosses=file, per_class=1, second=0, scene=0)
    prompts = [row["prompt"] for row in rows_of(asks, Chat(counted(("crane", "dog"))), context).to_pylist()]
    assert "crane (a tall bird)" in prompts[0]
    assert "(" not in prompts[1]
    with pytest.raises(InputError, match="a gloss for none of the 20 classes"):
        _ = stage(glosses=file).count
    file.write_text("[1]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        read_glosses(file, NAMES)


SENSES = {
    "crane": ["a bird", "a machine"],
    "dog": ["an animal"],
    "thing": ["what there is", "a deed"],
    "polar bear": ["a white bear", "a fund"],
}


class Sense:
    def __init__(self, text):
        self.text = text

    def definition(self):
        return self.text


def put_wn(monkeypatch, senses, error=None):
    """What the library wn does: without a lexicon it knows no word, and says nothing of it."""

    class Wn:
        Error = ValueError

        @staticmethod
        def lexicons():
            if error:
                raise error
            return ["oewn"] if senses else []

        @staticmethod
        def synsets(name, pos):
            return [Sense(text) for text in senses.get(name, [])]

    monkeypatch.setitem(sys.modules, "wn", Wn)


def put_nltk(monkeypatch, senses):
    """What NLTK does: without its data, each look-up is an error."""

    def synsets(name, pos):
        if not senses:
            raise LookupError("Resource wordnet not found.")
        return [Sense(text) for text in senses.get(name.replace("_", " ") if " " not in name else "", [])]

    corpus = SimpleNamespace(wordnet=SimpleNamespace(synsets=synsets))
    monkeypatch.setitem(sys.modules, "nltk", SimpleNamespace(corpus=corpus))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)


@pytest.fixture
def there(monkeypatch):
    """Says which of the two libraries are installed."""
    return lambda *names: monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in names else None)


@pytest.mark.parametrize("library", ["wn", "nltk"])
def test_wordnet_tells_what_ambiguous_names_mean(library, there, monkeypatch):
    {"wn": put_wn, "nltk": put_nltk}[library](monkeypatch, SENSES)
    there(library)
    known = read_glosses("wordnet", ["crane", "dog", "nothing", "polar bear"])
    assert known == {"crane": "a bird", "polar bear": "a white bear"}


@pytest.mark.parametrize("error", [None, ValueError("another version of the database"), PermissionError("no home")])
def test_nltk_is_asked_where_wn_has_no_data(error, there, monkeypatch):
    put_wn(monkeypatch, {}, error)
    put_nltk(monkeypatch, SENSES)
    there("wn", "nltk")
    assert read_glosses("wordnet", ["crane", "dog"]) == {"crane": "a bird"}
    put_wn(monkeypatch, {"crane": ["a tall bird", "a hoist"]})
    assert read_glosses("wordnet", ["crane", "dog"]) == {"crane": "a tall bird"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no WordNet is installed: pip install wn, then python -m wn download oewn:2024; or give --glosses a file"),
        (("wn",), "wn is installed without a WordNet: python -m wn download oewn:2024; or give --glosses a file"),
        (("nltk",), "nltk is installed without its WordNet: python -m nltk.downloader wordnet; or give --glosses a"),
        (("wn", "nltk"), "wn is installed without a WordNet: python -m wn download oewn:2024; or give --glosses a file"),
    ],
)  # fmt: skip
def test_a_wordnet_that_is_not_there_is_said_in_one_line(names, said, there, monkeypatch):
    put_wn(monkeypatch, {})
    put_nltk(monkeypatch, {})
    there(*names)
    with pytest.raises(InputError, match=said):
        _ = stage(glosses="wordnet").count


def test_what_cannot_be_asked_is_said():
    with pytest.raises(InputError, match="a list of one class, 'cat'"):
        _ = stage(classes=("cat",)).count
    with pytest.raises(InputError, match=r"has no \{class\} in it"):
        _ = stage(templates=("a thing",)).count
    with pytest.raises(InputError, match="from 0 to 1"):
        stage(second=1.5)
    with pytest.raises(InputError, match="60 to 50 words"):
        stage(min_words=60)
    with pytest.raises(InputError, match="balance 'odd'"):
        stage(balance="odd")
    with pytest.raises(InputError, match="needs a prompt that says what to write"):
        stage(classes=())
    with pytest.raises(InputError, match="asked by templates"):
        stage(prompt="say {class}")
