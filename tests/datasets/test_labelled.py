import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reverie import pairs
from reverie.datasets.labelled import (
    LabelledImages,
    attributes,
    check_labels,
    check_photos,
    load_photos,
    passed_over,
    photo_labels,
    take_photos,
)
from reverie.errors import BrokenImage, InputError
from reverie.store import tables
from tests.evaluate.conftest import as_bytes, colour_photos


def test_parquet_photos_keep_their_numbering_from_train_to_test(photo_folder):
    train = load_photos(photo_folder, "train")
    images, names = colour_photos(5, 9)
    pq.write_table(pa.table({"image": images[1:2], "label": names[1:2]}), photo_folder / "test.parquet")
    test = load_photos(photo_folder, "test", train.classes)
    assert train.classes == ("blue", "green", "red")
    assert train.labels[:4].tolist() == [0, 1, 2, 0]
    assert test.labels.tolist() == [1]  # "green" is class 1 even where it is the only one


def test_whole_numbers_sort_as_numbers_and_names_win(tmp_path):
    images, _ = colour_photos(3, 0)
    pq.write_table(pa.table({"image": images, "label": pa.array([10, 2, 2], pa.int8())}), tmp_path / "train.parquet")
    assert load_photos(tmp_path, "train").classes == ("2", "10")
    named = pa.table({"image": images, "label": [1, 0, 0], "label_name": ["dog", "cat", "cat"]})
    pq.write_table(named, tmp_path / "train.parquet")
    assert load_photos(tmp_path, "train").classes == ("cat", "dog")


def test_images_as_hugging_face_keeps_them(tmp_path):
    images, names = colour_photos(3, 0)
    column = pa.array([{"bytes": item, "path": None} for item in images])
    pq.write_table(pa.table({"image": column, "label": names}), tmp_path / "train.parquet")
    assert load_photos(tmp_path, "train").images == images


def test_a_table_of_pairs_is_a_split(tmp_path):
    images, names = colour_photos(4, 0)
    rows = [
        {
            "pair_id": f"{n}-000",
            "caption_id": str(n),
            "copy": 0,
            "unit": 0,
            "label": name,
            "image": image,
            "status": "ok",
        }
        for n, (image, name) in enumerate(zip(images, names, strict=True))
    ]
    rows.append({"pair_id": "9-000", "caption_id": "9", "copy": 0, "unit": 0, "status": "failed", "reason": "NaN"})
    tables.append_unit(tmp_path / "train.lance", 0, pairs.table(rows, pairs.PAIRS))
    found = load_photos(tmp_path, "train")
    assert (found.images, found.classes) == (images, ("blue", "green", "red"))


def in_folders(root, images, names):
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{number}.png").write_bytes(image)


def test_a_folder_of_pictures_for_each_class_is_a_split_or_train_alone(tmp_path):
    images, names = colour_photos(6, 0)
    in_folders(tmp_path / "split" / "train", images, names)
    in_folders(tmp_path / "split" / "test", images[:3], names[:3])
    in_folders(tmp_path / "bare", images, names)
    for source in (tmp_path / "split", tmp_path / "bare"):
        found = load_photos(source, "train")
        assert found.classes == ("blue", "green", "red")
        assert found.images == [images[0], images[3], images[1], images[4], images[2], images[5]]
    assert len(load_photos(tmp_path / "split", "test", found.classes)) == 3
    with pytest.raises(InputError, match="no test photos"):
        load_photos(tmp_path / "bare", "test")
    (tmp_path / "split" / "train").rename(tmp_path / "split" / "other")
    with pytest.raises(InputError, match="no train photos"):  # "test" is no class
        load_photos(tmp_path / "split", "train")


def test_what_lies_among_photos_and_is_none_is_counted(tmp_path):
    in_folders(tmp_path / "test", *colour_photos(1, 0))
    assert passed_over(tmp_path, ["test"]) is None
    for name in ("a.heic", "b.heic", "notes.txt"):
        (tmp_path / "test" / "blue" / name).write_bytes(b"x")
    assert passed_over(tmp_path, ["test"]) == (
        f"3 files among the test photos of {tmp_path} are not measured on (2 .heic files; 1 .txt file)"
    )
    assert passed_over("smallworld:street:2:2", ["train", "test"]) is None


def test_a_class_may_be_called_train(tmp_path):
    images, names = colour_photos(6, 0)
    in_folders(tmp_path, images, [{"red": "train"}.get(name, name) for name in names])
    assert load_photos(tmp_path, "train").classes == ("blue", "green", "train")


def test_labels_are_checked_without_a_look_at_pictures(tmp_path):
    images, names = colour_photos(6, 0)
    in_folders(tmp_path, [b"broken"] * len(images), names)
    check_labels(tmp_path, "train", ("red", "green", "blue"), min_images=2)
    with pytest.raises(InputError, match="not in the class list: blue"):
        check_labels(tmp_path, "train", ("red", "green"))
    with pytest.raises(InputError, match=r"3 train photos of each class are wanted, but .* has 2 of red"):
        check_labels(tmp_path, "train", ("red", "green", "blue"), min_images=3)


@pytest.mark.parametrize("kind", ["parquet", "lance", "folders", "smallworld"])
def test_labels_alone_and_some_photos_alone_are_those_of_all(tmp_path, kind):
    images, names = colour_photos(7, 0)
    source = str(tmp_path)
    if kind == "parquet":
        table = pa.table({"image": images, "label": names})
        pq.write_table(table, tmp_path / "train.parquet", row_group_size=3)
    elif kind == "lance":
        for unit in range(7):
            row = {"pair_id": f"{unit}-000", "caption_id": str(unit), "copy": 0, "unit": unit, "status": "ok"}
            rows = pairs.table([row | {"label": names[unit], "image": images[unit]}], pairs.PAIRS)
            tables.append_unit(tmp_path / "train.lance", unit, rows)
    elif kind == "folders":
        in_folders(tmp_path, images, names)
    else:
        source = "smallworld:street:7:1"
    whole = load_photos(source, "train")
    assert photo_labels(source, "train") == [whole.classes[number] for number in whole.labels]
    some = take_photos(source, "train", [6, 1, 4])
    assert sorted(some) == [1, 4, 6]
    for number, photo in some.items():
        assert np.array_equal(photo, whole.images[number])
    assert take_photos(source, "train", []) == {}


def test_pixels_are_resized_by_the_shorter_side_and_cut_in_the_middle():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    photos = LabelledImages([as_bytes(wide), wide], np.array([0, 0]), ("a",))
    small = photos.pixels(slice(0, 2), 10)
    assert small.shape == (2, 3, 10, 10)
    assert (small[0] == small[1]).all()
    assert (small[:, :, :, 2:8] == np.array([10, 200, 30]).reshape(3, 1, 1)).all()
    assert (photos.pixels(slice(1, 2), 20)[0].transpose(1, 2, 0) == wide[:, 20:40]).all()  # same size: not touched


def test_says_which_photo_is_broken():
    good = as_bytes(np.zeros((4, 4, 3), np.uint8))
    photos = LabelledImages([good, good, good[:40]], np.zeros(3, int), ("a",))
    with pytest.raises(BrokenImage, match="photo 2"):
        photos.pixels(slice(1, 3), 8)


def test_a_broken_photo_of_a_folder_is_called_by_its_file(tmp_path):
    good = as_bytes(np.zeros((4, 4, 3), np.uint8))
    for name, bytes_ in (("a/one.png", good), ("a/two.png", good[:40]), ("b/one.png", good)):
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / name).write_bytes(bytes_)
    photos = load_photos(tmp_path, "test")
    with pytest.raises(BrokenImage, match=r"test/a/two\.png"):
        photos.pixels(slice(0, 3), 4)
    with pytest.raises(BrokenImage, match=r"test/a/two\.png"):
        photos.only(np.array([False, True, True])).pixels(slice(0, 1), 4)


def test_a_decompression_bomb_is_refused():
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")  # a few kilobytes
    with pytest.raises(BrokenImage, match="too many"):
        LabelledImages([bomb.getvalue()], np.zeros(1, int), ("a",)).pixels(slice(0, 1), 8)


def test_bad_sources_are_told_in_one_line(photo_folder, tmp_path):
    train = load_photos(photo_folder, "train")
    images, _ = colour_photos(2, 0)

    def told(match, table=None, source=photo_folder, split="test"):
        if table is not None:
            pq.write_table(pa.table(table), photo_folder / "test.parquet")
        with pytest.raises(InputError, match=match) as caught:
            load_photos(source, split, train.classes)
        assert "\n" not in str(caught.value)

    told("no test photos", source=tmp_path / "nowhere")
    told("no column 'label'", {"image": images, "class": ["a", "b"]})
    told("no column 'image'", {"picture": images, "label": ["a", "b"]})
    told("not have?: violet|do not: violet", {"image": images, "label": ["red", "violet"]})
    told("without a label", {"image": images, "label": ["red", None]})
    told("no labelled photos", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())})
    (photo_folder / "test.parquet").write_bytes(b"not parquet")
    told("not a parquet file")
    told("smallworld:CAMERA", source="smallworld:street:many")
    told("unknown camera .strret.; did you mean street", source="smallworld:strret:5:5")
    told("has no test photos", source="smallworld:street:10:0")


def test_the_small_world_gives_other_photos_to_test_than_to_train():
    pytest.importorskip("reverie.smallworld.photos")
    train, test = (load_photos("smallworld:street:6:6", split) for split in ("train", "test"))
    again = load_photos("smallworld:street:6:6", "train")
    assert train.classes == test.classes
    assert all((a == b).all() for a, b in zip(train.images, again.images, strict=True))
    assert not any((a == b).all() for a in train.images for b in test.images)


def test_classes_of_the_small_world_are_made_of_shape_and_colour_and_others_of_nothing(photo_folder):
    names = ("pink crescent", "red circle", "red crescent")
    found = attributes("smallworld:street:6:6", names)
    assert {name: [kind.values[n] for n in kind.of_class] for name, kind in found.items()} == {
        "shape": ["crescent", "circle", "crescent"],
        "colour": ["pink", "red", "red"],
    }
    assert [len(kind.values) for kind in found.values()] == [8, 8]
    assert attributes("smallworld:street:6:6", ("red circle", "dog")) == {}
    assert attributes(photo_folder, ("red circle", "blue circle")) == {}


def test_the_small_world_is_numbered_by_the_classes_that_are_given():
    own = load_photos("smallworld:street:6:6", "test")
    turned = load_photos("smallworld:street:6:6", "test", own.classes[::-1])
    assert [turned.classes[n] for n in turned.labels] == [own.classes[n] for n in own.labels]
    assert turned.classes == own.classes[::-1]
    with pytest.raises(InputError, match="not in the class list: red circle"):
        load_photos("smallworld:street:6:6", "test", own.classes[1:])


def broken_photos(folder, what):
    """Two classes with a good photo each, and one photo that is none."""
    from tests.store.conftest import picture

    for name in ("cat", "dog"):
        (folder / "test" / name).mkdir(parents=True)
        (folder / "test" / name / "0.jpg").write_bytes(picture(1, 64, 64, "JPEG"))
    bad = folder / "test" / "cat" / "bad.jpg"
    if what == "a link to nothing":
        bad.symlink_to(folder / "gone.jpg")
    elif what == "a named pipe":
        os.mkfifo(bad)
    elif what == "a folder":
        bad.mkdir()
    elif what == "cut":
        bad.write_bytes(picture(2, 200, 200, "JPEG")[:3000])
    elif what == "too long on one side":
        bad.write_bytes(picture(3, 4000, 2, "PNG"))
    else:
        bad.write_bytes(b"<html>404</html>")
    return bad


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a link to nothing", "a link to nothing, not a file"),
        ("a named pipe", "a named pipe, not a file"),
        ("a folder", "a folder, not a file"),
        ("cut", "cannot decode the image"),
        ("too long on one side", "too long on one side"),
        ("html", "not a JPEG"),
    ],
)
def test_broken_photos_are_named_before_any_work(tmp_path, what, message):
    bad = broken_photos(tmp_path, what)
    with pytest.raises(InputError, match=rf"1 of 3 test photos of .* cannot be read: cat/bad\.jpg: .*{message}"):
        check_photos(tmp_path, "test")
    if message.endswith("not a file"):
        with pytest.raises(InputError, match=r"bad\.jpg: .*not a file"):
            load_photos(tmp_path, "test")
    bad.rmdir() if what == "a folder" else bad.unlink()
    check_photos(tmp_path, "test")
    assert len(load_photos(tmp_path, "test")) == 2


def test_photos_of_a_table_as_bytes_structs_and_file_names(tmp_path):
    from tests.store.conftest import picture

    data = [picture(1), picture(2)]
    for number, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(data[number])
    for column in (data, [{"bytes": item, "path": None} for item in data], ["a.png", "b.png"]):
        pq.write_table(pa.table({"image": column, "label": ["x", "y"]}), tmp_path / "test.parquet")
        check_photos(tmp_path, "test")
        assert load_photos(tmp_path, "test").images == data
    for column, message in (
        (["a.png", "c.png"], "no image file: c.png"),
        ([1, 2], "neither bytes nor a file name"),
        ([data[0], b"x"], "photo 1: not a JPEG.*1 bytes"),
    ):
        pq.write_table(pa.table({"image": column, "label": ["x", "y"]}), tmp_path / "test.parquet")
        with pytest.raises(InputError, match=message):
            check_photos(tmp_path, "test")
    whole = (tmp_path / "test.parquet").read_bytes()
    (tmp_path / "test.parquet").write_bytes(whole[:200] + bytes(40) + whole[240:])
    with pytest.raises(InputError):
        check_photos(tmp_path, "test")
