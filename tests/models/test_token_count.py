import gzip
from pathlib import Path

import pytest

from reverie.errors import InputError, ModelError
from reverie.models.token_count import clip_tokenizer, open_token_counter

MERGES = Path(__file__).parents[3] / "shared" / "data" / "classnames_templates" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.mark.skipif(not MERGES.exists(), reason="CLIP's merges are not here")
def test_clips_own_tokens():
    tokenizer = clip_tokenizer(MERGES)
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    counted, limit = open_token_counter(str(MERGES))
    assert limit == 77
    assert counted(["a photo of a cat", "", "cat " * 100]) == [7, 2, 102]


def test_tokens_of_a_model():
    counted, limit = open_token_counter("builtin:clip")
    assert counted(["a red circle"]) == [5]
    assert limit < 77
    assert counted([]) == []


def test_what_is_no_tokenizer(tmp_path):
    (tmp_path / "merges.txt").write_text("version\na b\n")
    (tmp_path / "broken.txt.gz").write_bytes(gzip.compress(b"x")[:-4])
    for name in ("merges.txt", "broken.txt.gz"):
        with pytest.raises(InputError, match=r"bpe_simple_vocab_16e6\.txt\.gz"):
            open_token_counter(str(tmp_path / name))
    with pytest.raises(ModelError):
        open_token_counter(str(tmp_path / "none"))
