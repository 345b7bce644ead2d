"""Models that say what they see: five families, short and long, one seed a text; servers; captioners of our own; and what cannot see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reverie.errors import InputError, ModelError
from reverie.models.describer import ABOUT, IN_WORDS, Decoding, asking_of, check_describer, open_describer, place_of
from tests.models import tiny
from tests.models.describers import DESCRIBERS
from tests.models.server import Server

SAMPLED = Decoding(8, 0.7, 0.9, 1.1)


def pictures(count: int) -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20 + 4 * (i % 2), 24, 3), dtype=np.uint8))
        for i in range(count)
    ]


@pytest.fixture(scope="module", params=DESCRIBERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family: str = request.param
    return DESCRIBERS[family](tmp_path_factory.mktemp("describers") / family)


def test_it_looks_at_pictures_and_what_is_drawn_does_not_depend_on_those_beside_them(folder: Path) -> None:
    describer = open_describer(folder, batch_size=3, prompts={"short": "red circle", "long": "the two cat"})
    some, seeds = pictures(5), [1, 2, 3, 4, 5]
    short = describer.describe(some, seeds, "short", Decoding(6))
    assert short == describer.describe(some, [0] * 5, "short", Decoding(6))  # the likeliest words, whatever the seed
    assert len(set(short)) > 1
    long = describer.describe(some, seeds, "long", SAMPLED)
    alone = [
        describer.describe([picture], [seed], "long", SAMPLED)[0] for picture, seed in zip(some, seeds, strict=True)
    ]
    assert long == alone
    assert long != describer.describe(some, [9] * 5, "long", SAMPLED)
    assert long != describer.describe(some, seeds, "short", SAMPLED)  # it is asked something else
    assert all(number <= 12 for number in describer.num_tokens(long))
    assert not any("red circle" in text for text in short)  # what it was asked is no part of the answer


def test_own_prompts_go_before_the_usual_and_given_ones_before_both(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "own")
    (tmp_path / "own" / ABOUT).write_text(json.dumps({"prompts": {"short": "red", "long": "blue"}, "more": 1}))
    place = place_of(tmp_path / "own")
    assert asking_of(place).prompts == {"short": "red", "long": "blue"}
    assert asking_of(place, {"long": "green"}).prompts == {"short": "red", "long": "green"}
    (tmp_path / "own" / ABOUT).write_text(json.dumps({"prompts": {"short": "red"}}))
    with pytest.raises(ModelError, match=r"'prompts.long' is missing"):
        open_describer(tmp_path / "own")


def test_beams_search_more_than_one_sentence(folder: Path) -> None:
    describer = open_describer(folder)
    found = describer.describe(pictures(2), [0, 0], "short", Decoding(6, beams=3))
    assert len(found) == 2
    assert all(found)


def test_a_server_is_shown_the_picture_and_its_answers_are_kept_without_it(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    text = "A red  circle."
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]})
    with Server([(200, {}, body)] * 2) as server:
        describer = open_describer(f"openai:eyes@{server.url}", cache=tmp_path / "answers.sqlite")
        for _ in range(2):
            found = describer.describe(pictures(2), [5, 6], "long")
        assert found == ["A red circle."] * 2
    assert len(server.requests) == 2  # the second time they are known
    asked: Any = server.requests[0]
    words, shown = asked["messages"][0]["content"]
    assert words == {"type": "text", "text": IN_WORDS["long"]}
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert (asked["temperature"], asked["top_p"], asked["model"]) == (0.7, 0.9, "eyes")
    assert b"base64" not in (tmp_path / "answers.sqlite").read_bytes()


def test_what_cannot_see_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"builtin:writer is a language model \(llama\) and cannot say what it sees"):
        open_describer("builtin:writer")
    with pytest.raises(ModelError, match=r"is an encoder of images and texts .* and cannot say what it sees"):
        check_describer(tiny.save_clip(tmp_path / "clip"))
    with pytest.raises(ModelError, match="is a pipeline that paints"):
        check_describer("builtin:painter")
    with pytest.raises(InputError, match=r"there is no finished captioner at .*nowhere"):
        check_describer(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there is no finished captioner at .*empty"):
        check_describer(tmp_path / "empty")


@pytest.mark.parametrize(
    ("settings", "told"), [({"max_tokens": 0}, "0 tokens"), ({"beams": 0}, "0 beams"), ({"top_p": 0.0}, "top_p 0"), ({"temperature": -1.0}, "temperature -1")]
)  # fmt: skip
def test_decoding_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Decoding(**{"max_tokens": 5, **settings})
