import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.evaluate.metrics.ptb import PUNCTUATION, tokenise, tokens_of

# Own sentences with what Stanford CoreNLP 3.4.1 made of them (-preserveLines -lowerCase, punctuation removed).
PAIRS = json.loads((Path(__file__).parent / "ptb_tokens.json").read_text("utf-8"))


@pytest.mark.parametrize(("sentence", "tokens"), PAIRS)
def test_equals_the_java_tokeniser(sentence, tokens):
    assert tokenise([sentence]) == [tokens.split(" ")]


def test_no_caption_changes_another():
    together = tokenise([sentence for sentence, _ in PAIRS])
    assert together == [tokenise([sentence])[0] for sentence, _ in PAIRS]


words = st.text(st.sampled_from("abcDE '.,-!?\""), max_size=40)


@settings(deadline=None, max_examples=150)
@given(words)
def test_the_short_way_for_plain_words_equals_the_rules(text):
    assert tokenise([text]) == [tokens_of(text)]


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_any_text_has_tokens(text):
    (tokens,) = tokenise([text])
    assert all(tokens)
    assert not PUNCTUATION & set(tokens)
    assert not any(" " in token or "\n" in token for token in tokens)


def test_line_breaks_are_spaces():
    assert tokenise(["a dog\nruns\r\nfast", "a\u2028b"]) == [["a", "dog", "runs", "fast"], ["a", "b"]]


def test_nothing_to_say():
    assert tokenise(["", "   ", "... !", "-- ;"]) == [[], [], [], []]
    assert tokenise([]) == []


@pytest.mark.parametrize("piece", ["word ", "a,", "a'", "a..", "a-", "&", "<!a", "(5", "http://", "&eacute"])
def test_time_grows_with_the_length(piece):
    """Pieces that a pattern could go back and forth in."""
    long = (piece * 30_000)[:30_000]
    began = time.process_time()
    assert isinstance(tokenise([long])[0], list)
    assert time.process_time() - began < 10
