import pytest
import torch

from reverie.errors import InputError
from reverie.models.zero_shot import class_embeddings


class Words:
    """Embeds a sentence by the words it holds; longer sentences have longer rows, so the norm matters."""

    words = ("red", "blue", "photo", "drawing")

    def texts(self, texts):
        return torch.tensor([[float(word in text) * len(text) for word in self.words] for text in texts])


def test_templates_are_averaged_as_unit_rows():
    rows = class_embeddings(
        Words(), ["red", "blue"], ["a photo of {class}", "a very long drawing of something that is {class}"]
    )
    half = 0.5**0.5
    expected = torch.tensor([[half, 0, half / 2, half / 2], [0, half, half / 2, half / 2]])
    assert torch.allclose(rows, torch.nn.functional.normalize(expected, dim=1), atol=1e-6)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], ["a {class}"], "at least one"),
        (["cat", "dog", "cat"], ["a {class}"], "named twice: cat"),
        (["cat"], ["a {class}", "a photo"], "'a photo' has no {class}"),
    ],
)
def test_says_what_is_wrong_with_classes_and_templates(classes, templates, message):
    with pytest.raises(InputError, match=message):
        class_embeddings(Words(), classes, templates)
