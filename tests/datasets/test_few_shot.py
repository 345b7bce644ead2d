"""Shots are drawn as a slow reader of the rule would, kept with their names, and told apart from what cannot be used."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reverie import pairs, seeds
from reverie.datasets.few_shot import TakeShots, read_shots, shot_picture, shots_filter, shots_store
from reverie.errors import InputError, SettingsChanged
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from reverie.stage import StepContext
from reverie.store import tables
from reverie.store.pictures import open_picture

CLASSES = ("cat", "dog", "owl")


def picture(seed, kind="PNG", mode="RGB", size=(12, 9), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Five photos of each class, in turns."""
    return write(tmp_path / "photos", [picture(n) for n in range(15)], [CLASSES[n % 3] for n in range(15)])


def write(folder, images, labels):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": labels}), folder / "train.parquet")
    return str(folder)


def every(parts):
    return [row for part in parts for row in part.to_pylist()]


def context(tmp_path, step="shots-0", events=None):
    report = (lambda kind, **facts: events.append((kind, facts))) if events is not None else lambda kind, **facts: None
    return StepContext(tmp_path / "run", step, report=report)


def taken(context, step="shots-0", num=None):
    """label -> names, in order."""
    found = {}
    for rows in read_shots(context, step, num, ["pair_id", "label"]):
        for row in rows.to_pylist():
            found.setdefault(row["label"], []).append(row["pair_id"])
    return found


def test_they_are_drawn_without_replacement_by_class_and_seed(photos, tmp_path):
    at = context(tmp_path)
    TakeShots(CLASSES, photos, 3, seed=4).run(at)
    about = json.loads((at.shots() / "shots.json").read_text())
    for number, name in enumerate(CLASSES):
        own = [number + 3 * turn for turn in range(5)]
        order = np.random.default_rng(seeds.derive("shots", 4, name)).permutation(5)
        assert about["photo_numbers"][name] == [own[turn] for turn in order[:3]]
        assert len(set(about["photo_numbers"][name])) == 3
        for row, shot in zip(about["photo_numbers"][name], about["shots"][name], strict=True):
            assert shot_picture(at, "shots-0", shot) == picture(row)
    assert about["shots"] == taken(at)
    assert (about["seed"], about["per_class"], about["photos"]) == (4, 3, photos)


def test_fewer_shots_are_the_first_of_more_and_another_seed_takes_others(photos, tmp_path):
    for step, stage in {
        "few": TakeShots(CLASSES, photos, 2, seed=1),
        "more": TakeShots(CLASSES, photos, 5, seed=1),
        "others": TakeShots(CLASSES, photos, 2, seed=2),
        "again": TakeShots(CLASSES, photos, 2, seed=1),
    }.items():
        stage.run(context(tmp_path, step))
    at = context(tmp_path)
    few, more, others = (taken(at, step) for step in ("few", "more", "others"))
    assert {name: shots[:2] for name, shots in more.items()} == few == taken(at, "more", 2) == taken(at, "again")
    assert others != few
    assert {name: sorted(set(shots)) for name, shots in more.items()} == {n: sorted(s) for n, s in more.items()}
    # The class list's order is no part of the draw.
    TakeShots(CLASSES[::-1], photos, 2, seed=1).run(context(tmp_path, "turned"))
    assert taken(at, "turned") == few


def test_they_are_an_ordinary_store_of_real_pairs(photos, tmp_path):
    at = context(tmp_path)
    TakeShots(CLASSES, photos, 3, template="one {class}").run(at)
    assert tables.verify(at.shots(), per_caption=1) == []
    rows = every(tables.scan(shots_store(at, "shots-0"), where=shots_filter(None)))
    assert len(rows) == 9
    for row in rows:
        assert (row["origin"], row["text"], row["copy"]) == ("real", f"one {row['label']}", 0)
        assert (row["width"], row["height"]) == (12, 9)
        assert row["painter"] is row["seed"] is row["start"] is None
    captions = every(tables.scan(at.shots() / "captions.lance"))
    assert {row["source"] for row in captions} == {"photo"}
    assert shots_store(at, tmp_path / "other") == tmp_path / "other" / "pairs.lance"


def test_a_second_call_changes_nothing_and_what_a_kill_left_is_made_anew(photos, tmp_path):
    at = context(tmp_path)
    left = at.shots().with_name("shots-0.tmp")
    left.mkdir(parents=True)
    (left / "shots.json").write_text("half")
    TakeShots(CLASSES, photos, 2).run(at)
    before = (at.shots() / "shots.json").stat().st_mtime_ns
    TakeShots(CLASSES, photos, 2).run(at)
    assert (at.shots() / "shots.json").stat().st_mtime_ns == before
    assert not left.exists()


def test_a_kill_before_the_step_is_noted_does_not_let_other_shots_take_their_name(photos, tmp_path):
    def plan(per_class):
        return Plan("mine", (Step("shots-0", TakeShots(CLASSES, photos, per_class)),))

    assert run(plan(2), tmp_path / "run")
    (tmp_path / "run" / "done" / "shots-0.json").unlink()
    with pytest.raises(SettingsChanged, match=r"shots-0\.per_class: 2 -> 3"):
        run(plan(3), tmp_path / "run")
    assert run(plan(2), tmp_path / "run")


def test_photos_of_any_kind_are_kept_as_pictures_that_decode(tmp_path):
    turn = Image.Exif()
    turn[0x0112] = 6  # the camera was held on its side
    images = [
        picture(0, mode="L"),
        picture(1, mode="RGBA"),
        picture(2, "JPEG", mode="CMYK"),
        picture(3, mode="P"),
        picture(4, "JPEG", exif=turn),
        picture(5, "BMP"),
        picture(6, "TIFF"),
        picture(7, "GIF", mode="P"),
        picture(8, mode="1"),
    ]
    at = context(tmp_path)
    source = write(tmp_path / "photos", images * 2, ["cat"] * 9 + ["dog"] * 9)
    TakeShots(("cat", "dog"), source, 9).run(at)
    assert tables.verify(at.shots(), per_caption=1) == []
    rows = every(tables.scan(shots_store(at, "shots-0"), where="label = 'cat'"))
    assert sorted((row["width"], row["height"]) for row in rows) == [(9, 12), *[(12, 9)] * 8]
    assert all(open_picture(row["image"], "x").mode == "RGB" for row in rows)
    assert all(row["image"][:2] not in (b"BM", b"II", b"GI") for row in rows), "the store keeps JPEG, PNG and WebP"


def test_broken_and_repeated_photos_are_passed_over_and_told(tmp_path):
    good = [picture(n) for n in range(4)]
    images = [*good[:2], b"no picture", picture(9)[:60], good[0], *good[2:], *good, picture(8)]
    source = write(tmp_path / "photos", images, ["cat"] * 7 + ["dog"] * 5)
    events = []
    at = context(tmp_path, events=events)
    TakeShots(("cat", "dog"), source, 4).run(at)
    found = taken(at)
    assert len(set(found["cat"])) == len(set(found["dog"])) == 4
    assert not set(found["cat"]) & set(found["dog"]), "the same photo under two classes has two names"
    (told,) = [facts["text"] for kind, facts in events if kind == "warning"]
    assert "3 photos were passed over" in told
    assert "is there twice" in told
    with pytest.raises(InputError, match=r"usable and distinct train photos of .* 'cat' has 4"):
        TakeShots(("cat", "dog"), source, 5).run(context(tmp_path, "more"))


def test_what_cannot_be_is_told_in_one_line_before_any_work(photos, tmp_path):
    def told(match, classes=CLASSES, source=photos, per_class=2):
        with pytest.raises(InputError, match=match) as caught:
            TakeShots(classes, source, per_class).check()
        assert "\n" not in str(caught.value)

    told(r"6 shots of each class are asked.* 'cat' has 5, 'dog' has 5, 'owl' has 5", per_class=6)
    told(r"'hen' has 0", classes=(*CLASSES, "hen"))
    told("classes that are not in the list: owl", classes=CLASSES[:2])
    told("'cat', which differs only by case from the class 'Cat'", classes=("Cat", "dog", "owl"))
    told("differs only by case", classes=("cat", "Cat"))
    told("no train photos", source=str(tmp_path / "nowhere"))
    many = write(tmp_path / "many", [picture(n) for n in range(9)], [f"class {n}" for n in range(9)])
    told(r"class 4 and 4 more", source=many)
    told(r"and 4 more classes have too few", classes=tuple(f"class {n}" for n in range(9)), source=many)
    TakeShots(CLASSES, photos, 5).check()
    for wrong in ({"per_class": 0}, {"template": "a photo"}):
        with pytest.raises(InputError):
            TakeShots(CLASSES, photos, **wrong)


def test_class_folders_and_the_small_world(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "folders" / name / f"{number}.png").write_bytes(picture((name == "cat") * 10 + number))
    at = context(tmp_path, "folders")
    TakeShots(("cat", "dog"), str(tmp_path / "folders"), 2).run(at)
    rows = every(read_shots(at, "folders", None, ["label", "image"]))
    dogs = {picture(number) for number in range(3)}
    assert {row["label"]: row["image"] in dogs for row in rows} == {"cat": False, "dog": True}

    from reverie.datasets.labelled import load_photos
    from reverie.smallworld.scene import class_names

    at = context(tmp_path, "small")
    TakeShots(class_names(), "smallworld:street:64:1", 1).run(at)
    train = load_photos("smallworld:street:64:1", "train")
    about = json.loads((at.shots("small") / "shots.json").read_text())
    name = class_names()[5]
    (number,) = about["photo_numbers"][name]
    assert train.classes[train.labels[number]] == name
    kept = open_picture(shot_picture(at, "small", about["shots"][name][0]), "x")
    assert (np.asarray(kept) == train.images[number]).all()


def test_ids_come_from_what_the_shot_is(photos, tmp_path):
    at = context(tmp_path)
    TakeShots(CLASSES, photos, 5).run(at)
    names = taken(at)
    turned = write(
        tmp_path / "turned", [picture(n) for n in reversed(range(15))], [CLASSES[n % 3] for n in reversed(range(15))]
    )
    TakeShots(CLASSES, turned, 5, seed=3).run(context(tmp_path, "turned"))
    assert {n: sorted(s) for n, s in taken(at, "turned").items()} == {n: sorted(s) for n, s in names.items()}
    assert all(pairs.pair_id(name[:16], 0) == name for shots in names.values() for name in shots)
