import pytest
import torch

from reverie.errors import InputError
from reverie.nets.text import text_config, text_tower, tokenize


class Letters:
    """A tokenizer of single letters: a is 10, b is 11, ...; 0 pads, 1 starts, 3 ends."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 3

    def __call__(self, texts, **_):
        return {"input_ids": [[1, *(ord(letter) - 87 for letter in text), 3] for text in texts]}

    def __len__(self):
        return 40


def test_tokens_are_padded_cut_and_counted():
    tokens = tokenize(Letters(), ["ab", "abcdef", ""], 5)
    assert tokens.ids.tolist() == [[1, 10, 11, 3, 0], [1, 10, 11, 12, 3], [1, 3, 0, 0, 0]]
    assert tokens.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert tokens.num_cut == 1


def test_the_tower_reads_the_end_token_and_not_what_follows():
    torch.manual_seed(0)
    tower = text_tower(text_config(Letters(), width=16, layers=1, heads=2, context=8, out=4)).eval()
    with torch.no_grad():
        alone = tower(**dict(zip(("input_ids", "attention_mask"), tokenize(Letters(), ["ab"], 8)[:2], strict=True)))
        padded = tokenize(Letters(), ["ab", "abcdef"], 8)
        beside = tower(input_ids=padded.ids, attention_mask=padded.mask)
    assert alone.text_embeds.shape == (1, 4)
    torch.testing.assert_close(beside.text_embeds[:1], alone.text_embeds)
    assert not torch.allclose(beside.text_embeds[1], beside.text_embeds[0])


@pytest.mark.parametrize("end", [None, 2])
def test_an_end_token_that_cannot_be_read_is_refused(end):
    tokenizer = Letters()
    tokenizer.eos_token_id = end
    with pytest.raises(InputError, match="end token"):
        text_config(tokenizer, width=16, layers=1, heads=2, context=8, out=4)
