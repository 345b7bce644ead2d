import math

import pytest
import torch
import torch.nn.functional as F

from reverie.errors import InputError
from reverie.learn.stablerep import load_tokenizer
from reverie.nets.captioner import CaptionNet, DecoderShape, caption_loss, caption_tokens, names_in, prompt_tokens

SHAPE = DecoderShape(32, 2, 4, 0.0, max_tokens=12, tag_heads=2)
TEXTS = ["a red circle", "a large blue star on a white background", "two green rings"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("builtin:clip")


def make(tokenizer, tags=True):
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(5, 16), dim=1) if tags else None
    return CaptionNet(16, rows, SHAPE, tokenizer).eval()


def seen(num=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    feature, shown = (F.normalize(torch.randn(num, 16, generator=generator), dim=1) for _ in range(2))
    tags = torch.tensor([[0, 3], [-1, -1], [4, -1]])[:num]
    return feature, shown, tags


def test_sentences_keep_their_end_and_lose_their_beginning(tokenizer):
    ids, mask, num_cut = caption_tokens(tokenizer, [*TEXTS, " ".join(["red"] * 50)], 12)
    assert num_cut == 1
    assert ids.shape == (4, 12)
    for row, marks in zip(ids, mask, strict=True):
        assert row[int(marks.sum()) - 1] == tokenizer.eos_token_id
        assert tokenizer.bos_token_id not in row.tolist()
    assert [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids[:3]] == TEXTS


def test_the_loss_is_the_mean_over_words_of_each_sentence_then_over_sentences(tokenizer):
    torch.manual_seed(0)
    ids, mask, _ = caption_tokens(tokenizer, TEXTS, 12)
    logits = torch.randn(*ids.shape, len(tokenizer))
    slow = 0.0
    for row, words, marks in zip(logits, ids, mask, strict=True):
        length = int(marks.sum())
        slow += -sum(row[place].log_softmax(0)[words[place]].item() for place in range(length)) / length
    assert caption_loss(logits, ids, mask).item() == pytest.approx(slow / len(ids), rel=1e-5)
    smooth = caption_loss(logits, ids, mask, 0.1).item()
    even = sum(
        -sum(row[place].log_softmax(0).mean().item() for place in range(int(marks.sum()))) / int(marks.sum())
        for row, marks in zip(logits, mask, strict=True)
    )
    assert smooth == pytest.approx(0.9 * slow / len(ids) + 0.1 * even / len(ids), rel=1e-5)


def test_each_place_is_told_nothing_of_what_comes_after_it(tokenizer):
    net, (feature, shown, tags) = make(tokenizer), seen()
    ids, mask, _ = caption_tokens(tokenizer, TEXTS, 12)
    other = ids.clone()
    other[:, 3:] = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("purple"))[0]
    with torch.no_grad():
        first, second = (net(feature, shown, tags, words, mask) for words in (ids, other))
    torch.testing.assert_close(first[:, :4], second[:, :4])
    assert first.shape == (*ids.shape, len(tokenizer))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompted", [False, True])
def test_asked_it_says_what_it_finds_likeliest_where_it_learns(tokenizer, beams, prompted):
    """Greedy decoding by the very forward pass of training, token by token, gives what ``say`` gives."""
    net, (feature, shown, tags) = make(tokenizer), seen()
    prompt = prompt_tokens(tokenizer, [["red circle"], [], ["blue star", "pink ring"]]) if prompted else None
    said = net.generate(feature, shown, tags, prompt, beams)
    for number in range(3):  # alone, without the padding of the others
        one = slice(number, number + 1)
        own = None if prompt is None else prompt[one][:, prompt[number] >= 0]
        alone = net.generate(feature[one], shown[one], tags[one], own, beams)
        length = min(alone.shape[1], said.shape[1])
        assert said[number, :length].tolist() == alone[0, :length].tolist()
        if beams > 1:
            continue
        words: list[int] = []
        while len(words) < alone.shape[1]:
            ids = torch.tensor([[*words, 0]])
            with torch.no_grad():
                logits = net(feature[one], shown[one], tags[one], ids, torch.ones_like(ids), own)
            words.append(int(logits[0, -1].argmax()))
        assert words == alone[0].tolist()


def test_tags_are_a_set_and_none_at_all_is_fine(tokenizer):
    net, (feature, shown, tags) = make(tokenizer), seen()
    with torch.no_grad():
        prefix = net.encode_visual(feature, shown, tags)
        assert prefix.shape == (3, 2, 32)
        torch.testing.assert_close(prefix, net.encode_visual(feature, shown, tags.flip(1)))
        nothing = net.encode_visual(feature, shown, torch.empty(3, 0, dtype=torch.int64))
        torch.testing.assert_close(nothing[1], prefix[1])  # that image has none
        assert not torch.allclose(nothing[0, 1], prefix[0, 1])
        # With a single key, attention gives its value whatever is asked.
        other = net.encode_visual(feature.flip(0), shown, torch.empty(3, 0, dtype=torch.int64))
        torch.testing.assert_close(nothing, other)
        assert make(tokenizer, tags=False).encode_visual(feature, shown, tags).shape == (3, 1, 32)


def test_the_learned_nothing_is_read_only_where_there_is_no_tag(tokenizer):
    net, (feature, shown, tags) = make(tokenizer), seen()
    with torch.no_grad():
        before = net.encode_visual(feature, shown, tags)
        net.nothing.add_(1.0)
        after = net.encode_visual(feature, shown, tags)
    changed = [not torch.allclose(before[number], after[number]) for number in range(3)]
    assert changed == [False, True, False]


def test_names_are_found_as_whole_words():
    names = ["red circle", "circle", "star", "cat"]
    assert names_in("A red circle, left of a starfish.", names) == ["red circle", "circle"]
    assert names_in("concatenate", names) == []
    assert names_in("Two red circles and boxes.", ["red circle", "box", "red"]) == ["red circle", "box", "red"]


def test_slips(tokenizer):
    with pytest.raises(InputError, match="heads"):
        DecoderShape(30, heads=4)
    with pytest.raises(InputError, match="divisor"):
        CaptionNet(15, torch.zeros(2, 15), SHAPE, tokenizer)
    assert math.isfinite(caption_loss(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)))
