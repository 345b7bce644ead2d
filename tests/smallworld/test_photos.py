import numpy as np
import pytest

from reverie.errors import InputError, UnknownName
from reverie.smallworld.photos import labelled
from reverie.smallworld.scene import class_names


@pytest.fixture(scope="module")
def photos():
    return labelled(100)


def test_shapes_and_balance(photos):
    images, labels, classes = photos
    assert images.shape == (100, 64, 64, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert classes == class_names()
    counts = np.bincount(labels, minlength=64)
    assert set(counts) == {1, 2}
    assert list(labels[:64]) != sorted(labels[:64])


def test_a_longer_set_starts_with_the_shorter_one(photos):
    images, labels, _ = labelled(20)
    assert (images == photos[0][:20]).all()
    assert (labels == photos[1][:20]).all()


def test_another_seed_gives_others(photos):
    images, labels, _ = labelled(20, seed=1)
    assert list(labels) != list(photos[1][:20])
    assert len({image.tobytes() for image in [*images, *photos[0]]}) == 120


def test_two_cameras_see_the_same_scenes():
    street, labels, _ = labelled(12)
    studio, again, _ = labelled(12, "studio")
    assert (labels == again).all()
    assert not (street == studio).all()
    # The same place of the picture stands out from the background.
    for a, b in zip(street.astype(float), studio.astype(float), strict=True):
        far = [np.abs(image - np.median(image, (0, 1))).sum(2).ravel() for image in (a, b)]
        assert np.corrcoef(*far)[0, 1] > 0.3


def test_bad_requests():
    with pytest.raises(UnknownName, match="did you mean street"):
        labelled(1, "stret")
    with pytest.raises(InputError, match="at least 1"):
        labelled(0)
