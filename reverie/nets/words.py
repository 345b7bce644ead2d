"""A tokenizer with one token a word, for models that learn a small vocabulary from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<start>", "<unknown>", "<end>")  # CLIP text models take an end token with id 2 for another thing


def write_tokenizer(folder: Path, words: Iterable[str], longest: int, end: bool = True) -> None:
    """Write a tokenizer folder that ``AutoTokenizer`` opens.

    Args:
        folder: where to.
        words: the vocabulary, in lower case; letters of texts are lowered. Punctuation marks are words of
            their own, but for a full stop at the end, which is left out if there is an end token.
        longest: most tokens of a text, with start and end.
        end: whether it adds an end token to the start token; a prompt to be continued must not have one.
    """
    ids = {word: index for index, word in enumerate((*SPECIAL, *sorted(set(words))))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unknown>"))
    # A prompt may end in a full stop or not; as an unknown word it would change what a model makes of it.
    stop = [normalizers.Replace(Regex(r"\.\s*$"), "")] if end else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *stop])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "<start> $A <end>" if end else "<start> $A",
        special_tokens=[(token, ids[token]) for token in ("<start>", "<end>")],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unknown>",
        model_max_length=longest,
    )
    fast.save_pretrained(folder)


def split_words(texts: Iterable[str]) -> set[str]:
    """Every word and punctuation mark of some texts, as the tokenizer will see them."""
    splitter, lower = pre_tokenizers.BertPreTokenizer(), normalizers.Lowercase()
    return {word for text in texts for word, _ in splitter.pre_tokenize_str(lower.normalize_str(text))}
