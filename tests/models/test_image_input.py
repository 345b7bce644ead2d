import os

import numpy as np
import pytest
from PIL import Image

from reverie.errors import BrokenImage
from reverie.models.image_input import opened_picture


def test_a_file_is_a_picture(tmp_path):
    picture = np.full((4, 6, 3), 7, np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(opened_picture(tmp_path / "a.png"), picture)
    assert np.array_equal(opened_picture(str(tmp_path / "a.png")), picture)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing", "zero byte", "half a character"])
def test_what_is_no_file_is_one_line_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    name = {"zero byte": "a\0.jpg", "half a character": "\ud83d.jpg"}.get(kind, str(path))
    with pytest.raises(BrokenImage) as caught:
        opened_picture(name)
    str(caught.value).encode()  # so that it can be printed
    assert "\n" not in str(caught.value)
