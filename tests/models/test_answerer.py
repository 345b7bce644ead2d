"""Questions about pictures: five families of models, a server, and what answers none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from reverie.errors import ModelError
from reverie.models.answerer import open_answerer
from tests.models.describers import DESCRIBERS
from tests.models.server import Server

QUESTIONS = ["red circle", "the two cat", "red circle", "a blue", "the two cat"]


def pictures(count):
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20 + 4 * (i % 2), 24, 3), dtype=np.uint8))
        for i in range(count)
    ]


@pytest.mark.parametrize("family", DESCRIBERS)
def test_answers_come_in_order_and_do_not_depend_on_those_beside_them(family, tmp_path):
    answerer = open_answerer(str(DESCRIBERS[family](tmp_path / family)), batch_size=2)
    some = pictures(5)
    found = answerer(some, QUESTIONS)
    alone = [answerer([picture], [question])[0] for picture, question in zip(some, QUESTIONS, strict=True)]
    assert found == alone
    assert len(set(found)) > 1
    assert answerer([], []) == []


def test_a_server_is_shown_the_picture_and_the_question(tmp_path):
    pytest.importorskip("openai")
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}
    body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]})
    with Server([(200, {}, body)] * 2) as server:
        answerer = open_answerer(f"openai:eyes@{server.url}")
        assert answerer(pictures(1) * 2, ["Is there any dog?", "Is there any cat?"]) == ["Yes.", "Yes."]
    asked = sorted(request["messages"][0]["content"][0]["text"] for request in server.requests)
    assert asked == [f"Is there any {what}? Answer with one word, yes or no." for what in ("cat", "dog")]
    shown = server.requests[0]["messages"][0]["content"][1]["image_url"]["url"]
    assert shown.startswith("data:image/png;base64,")


def test_what_answers_no_question():
    with pytest.raises(ModelError, match="cannot say what it sees"):
        open_answerer("builtin:writer")
