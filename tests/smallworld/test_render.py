import numpy as np
import pytest
from scipy import ndimage

from reverie.smallworld.render import distance, render
from reverie.smallworld.scene import SHAPES, Scene, Thing, sample


@pytest.mark.parametrize("camera", ["studio", "street"])
def test_same_seed_same_bytes(camera):
    scene = sample(np.random.default_rng(1))
    first, again, other = (render(scene, camera, seed=seed) for seed in (3, 3, 4))
    assert first.image.tobytes() == again.image.tobytes()
    assert (first.boxes == again.boxes).all()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("side", [32, 64, 96])
def test_size_and_type(side):
    picture = render(sample(np.random.default_rng(0), 3), side=side)
    assert picture.image.shape == (side, side, 3)
    assert picture.image.dtype == np.uint8
    assert picture.boxes.shape == (3, 4)


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="below 32"):
        render(sample(np.random.default_rng(0)), side=16)


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_fit_the_coloured_pixels(shape):
    for seed in range(6):
        # On gray, in one saturated colour, what has a colour is the thing.
        scene = Scene((Thing(shape, "blue", "large", 0.45, 0.55, 0.3),), "gray")
        picture = render(scene, seed=seed)
        coloured = np.ptp(picture.image.astype(int), axis=2) > 20
        rows, columns = np.nonzero(coloured)
        x0, y0, x1, y1 = picture.boxes[0]
        tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(tight) - (x0, y0, x1, y1)).max() <= 2


def test_nuisances_change_but_the_thing_stays():
    scene = Scene((Thing("circle", "red", "large", 0.5, 0.5, 0.3),), "white")
    pictures = [render(scene, seed=seed).image.astype(int) for seed in range(8)]
    for picture in pictures:
        inside, corner = picture[26:38, 26:38].mean((0, 1)), picture[:6, :6].mean((0, 1))
        assert inside[0] > 2 * inside[2]  # red
        assert np.ptp(corner) < 15  # white
    assert np.std(pictures, axis=0).mean() > 3


def test_street_is_rougher_and_more_colourful_than_studio():
    rng = np.random.default_rng(2)
    roughness, cast = {"studio": [], "street": []}, {"studio": [], "street": []}
    for seed in range(20):
        scene = sample(rng, 1)
        scene = Scene(scene.things, "gray")
        for camera in roughness:
            image = render(scene, camera, seed=seed).image.astype(float)
            roughness[camera].append(np.median(np.abs(image - ndimage.uniform_filter(image, (3, 3, 0)))))
            cast[camera].append(np.ptp(np.median(image, axis=(0, 1))))
    assert np.mean(roughness["street"]) > 3 * np.mean(roughness["studio"])
    assert np.mean(cast["street"]) > 2 * np.mean(cast["studio"])


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_is_in_units_of_length_at_the_outline(shape):
    """One step across the outline changes the distance by about that step: the edge is one pixel wide at any size."""
    step = 0.01
    v, u = np.mgrid[-1.2:1.2:step, -1.2:1.2:step].astype(np.float32)
    away = distance(shape, u, v)
    assert 0.1 < (away < 0).mean() * 2.4**2 < np.pi
    slope = np.hypot(*np.gradient(away, step))
    assert np.median(slope[np.abs(away) < 0.02]) == pytest.approx(1, abs=0.05)


def test_unknown_shape():
    with pytest.raises(ValueError, match="unknown shape"):
        distance("blob", np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32))
