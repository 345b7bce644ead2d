"""Odd answers of a server: one among good ones costs that caption; nothing but odd ones is one line."""

import json

import pytest

from reverie.captions.llm import AskWriter
from reverie.errors import ModelError, StoreError
from reverie.models.writer import open_writer
from reverie.stage import StepContext
from tests.captions.conftest import asked
from tests.models.server import Server


def reply(message, **more):
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | more)


def content(value):
    return reply({"role": "assistant", "content": value})


ODD = {
    "no message": reply(None),
    "no content": content(None),
    "no choices": reply({}, choices=[]),
    "null choices": reply({}, choices=None),
    "strange choices": reply({}, choices=3),
    "choices of null": reply({}, choices=[None]),
    "an object": content({"text": "a cat"}),
    "a number": content(5),
    "an empty list": content([]),
    "a list of numbers": content([1, 2]),
    "an error": json.dumps({"error": {"message": "overloaded", "code": 429}}),
    "a list": "[1]",
    "null": "null",
    "a text": '"hi"',
    "a page": "<html>login</html>",
    "nothing": "",
    "deep": "[" * 100_000,
    "not a number": '{"choices": NaN}',
    "half": content("a cat")[:-5],
}


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_answer_among_good_ones_is_empty(odd, tmp_path):
    with Server([(200, {}, content("a good one")), (200, {}, ODD[odd]), (200, {}, content("another"))]) as server:
        writer = open_writer(f"openai:m@{server.url}", cache=tmp_path / "requests.sqlite", parallel=1)
        assert writer.write(["x", "y", "z"], [1, 2, 3], 9, 1.0, 1.0) == ["a good one", "", "another"]
        again = writer.write(["x", "y", "z"], [1, 2, 3], 9, 1.0, 1.0)
        assert again[::2] == ["a good one", "another"]
        assert "y" in again[1]  # what was no answer was not kept, and is asked again
        assert len(server.requests) == 4


@pytest.mark.parametrize("odd", ODD)
def test_nothing_but_odd_answers_is_one_line(odd):
    with Server([(200, {}, ODD[odd])] * 3) as server:
        writer = open_writer(f"openai:m@{server.url}", parallel=1)
        with pytest.raises(ModelError, match=r"without a text|cannot be read") as caught:
            writer.write(["x", "y", "z"], [1, 2, 3], 9, 1.0, 1.0)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_the_server_refuses_costs_that_caption_alone():
    refused = (400, {}, json.dumps({"error": {"message": "against our rules"}}))
    with Server([(200, {}, content("good")), refused]) as server:
        writer = open_writer(f"openai:m@{server.url}", parallel=1)
        assert writer.write(["x", "y"], [1, 2], 9, 1.0, 1.0) == ["good", ""]
    with Server([refused] * 2) as server:
        writer = open_writer(f"openai:m@{server.url}", parallel=1)
        with pytest.raises(ModelError, match=r"400 for m: .*against our rules"):
            writer.write(["x", "y"], [1, 2], 9, 1.0, 1.0)


def test_parts_are_joined_and_half_characters_left_out(tmp_path):
    parts = content([{"type": "text", "text": "a cat "}, {"type": "image"}, {"type": "text", "text": "sits"}])
    half = content("a cat \ud83d")
    whole = content("a cat \ud83d\ude00")
    with Server([(200, {}, body) for body in (parts, half, whole)]) as server:
        writer = open_writer(f"openai:m@{server.url}", cache=tmp_path / "requests.sqlite", parallel=1)
        assert writer.write(["x", "y", "z"], [1, 2, 3], 9, 1.0, 1.0) == ["a cat sits", "a cat", "a cat \U0001f600"]


def test_a_thinking_server_gives_captions(tmp_path):
    with Server([(200, {}, content(f"<think>hmm {n}</think>\n\na photo of a {n}")) for n in ("cat", "dog")]) as server:
        stage = AskWriter(f"openai:m@{server.url}", ("cat", "dog"), max_tries=1)
        stage = stage.worker(open_writer(stage.writer, parallel=1), StepContext(tmp_path, "captions", seed=1))
        rows = stage(asked(0, 0, 2)).to_pylist()
    assert [(row["text"], row["status"]) for row in rows] == [("a photo of a cat", "ok"), ("a photo of a dog", "ok")]


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 99, b"SQLite format 3\0" + b"\xff" * 999])
def test_kept_answers_that_are_damaged_are_one_line(tmp_path, damage):
    file = tmp_path / "requests.sqlite"
    file.write_bytes(damage)
    with Server() as server:
        if not damage:  # as a kill before the first answer leaves it
            assert open_writer(f"openai:m@{server.url}", cache=file).write(["x"], [1], 9, 1.0, 1.0)
            return
        with pytest.raises(StoreError, match=r"requests.sqlite is damaged"):
            open_writer(f"openai:m@{server.url}", cache=file).write(["x"], [1], 9, 1.0, 1.0)
