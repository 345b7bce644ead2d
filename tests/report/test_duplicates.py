"""The same picture under two labels: found, told, and shown side by side."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from reverie import pairs
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.filters.duplicates import Duplicates, ImageHash, find_duplicates, same_pictures
from reverie.report import duplicates
from reverie.report.page import write as write_page
from reverie.store import tables
from reverie.store.imports import import_into

from .test_page import read

TRASHNET = Path(__file__).parents[3] / "shared" / "data" / "trashnet" / "images64.parquet"
PLANTED = [("glass115", "metal91"), ("glass176", "plastic152"), ("glass389", "plastic332")]
EVIL = "<b onclick=x>&"


def photo(seed):
    """Large soft shapes, as photos have."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def imported(tmp_path):
    """Photo 0 is an owl, a cat and (brighter) a <b>; photo 1 is an owl twice; the rest are all different."""
    source = tmp_path / "photos"
    for label, seeds in (("cat", (0, 2, 3)), ("owl", (0, 1, 1, 4)), (EVIL, (5, 6))):
        (source / label).mkdir(parents=True)
        for number, seed in enumerate(seeds):
            photo(seed).save(source / label / f"{number}.png")
    ImageEnhance.Brightness(photo(0)).enhance(1.04).save(source / EVIL / "9.png")
    folder = tmp_path / "real"
    import_into(source, folder, unit_size=4)
    return folder


def said(found):
    return [
        (tuple(row["label"] for row in group.rows), group.exact, group.in_conflict)
        for group in (*found.conflicts, *found.others)
    ]


def test_conflicts_come_first_and_name_the_files(imported):
    find_duplicates(imported)
    found = duplicates.gather(imported)
    assert said(found) == [((EVIL, "cat", "owl"), False, True), (("owl", "owl"), True, False)]
    assert (found.num_images, found.num_copies) == (10, 3)
    (conflict,) = found.conflicts
    assert [found.origins[row["caption_id"]] for row in conflict.rows] == [f"{EVIL}/9.png", "cat/0.png", "owl/0.png"]
    assert duplicates.headline(found) == "3 of 10 images repeat another one; 1 picture stands under two labels or more."


def test_exact_copies_alone(imported):
    find_duplicates(imported, Duplicates(near=False))
    assert said(duplicates.gather(imported)) == [(("cat", "owl"), True, True), (("owl", "owl"), True, False)]


def test_the_column_leaves_copies_out(imported):
    find_duplicates(imported)
    assert tables.count(imported / "pairs.lance", "duplicate_of is null") == 7


def test_again_after_more_was_imported(imported, tmp_path):
    find_duplicates(imported)
    (tmp_path / "more" / "fox").mkdir(parents=True)
    photo(3).save(tmp_path / "more" / "fox" / "0.png")
    import_into(tmp_path / "more", imported, name="more")
    find_duplicates(imported)
    labels = [group.labels for group in same_pictures(imported / "pairs.lance") if group.in_conflict]
    assert labels == [(EVIL, "cat", "owl"), ("cat", "fox")]


def test_killed_on_the_way_it_goes_on(imported, monkeypatch):
    looked, hashed = [], ImageHash.open

    def fails_at_the_second(self, context):
        worker = hashed(self, context)

        def look(rows):
            looked.append(set(rows["unit"].to_pylist()))
            if len(looked) == 2:
                raise KeyboardInterrupt
            return worker(rows)

        return look

    monkeypatch.setattr(ImageHash, "open", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        find_duplicates(imported)
    find_duplicates(imported)
    assert looked == [{0}, {1}, {1}, {2}]
    assert len(duplicates.gather(imported).conflicts) == 1


def test_the_page_shows_them_side_by_side(imported):
    find_duplicates(imported)
    page = duplicates.write(imported)
    shutil.copy(page, imported / "report.html")
    seen = read(imported)
    assert "1 picture stands under two labels" in seen.text
    assert f"{EVIL}/9.png" in seen.text
    assert not [attrs for _, attrs in seen.tags if "onclick" in attrs]
    assert sum(tag == "img" for tag, _ in seen.tags) == 3 + 2
    assert all(source.startswith("data:image/") for source in seen.sources)


def test_on_the_command_line(imported, capsys):
    for words, code, told in (
        (
            ["duplicates", str(imported)],
            0,
            ["cat/0.png", "nearly", "1 picture stands under two labels", "duplicates.html"],
        ),
        (["duplicates", str(imported), "--exact"], 0, ["cat/0.png", "equal"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        out = capsys.readouterr().out
        assert ended.value.code == code
        assert all(word in out for word in told), out


@pytest.mark.parametrize("content", [None, [], ["file"]])
def test_folders_without_images(tmp_path, content, capsys):
    folder = tmp_path / "it"
    if content is not None:
        folder.mkdir()
        for name in content:
            (folder / name).write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["duplicates", str(folder)])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert content is None or [path.name for path in folder.iterdir() if not path.name.startswith(".")] == content


def test_nobody_has_looked_yet(imported):
    with pytest.raises(InputError, match="run: reverie duplicates"):
        duplicates.gather(imported)


def test_a_run_tells_it_on_its_page(run_folder):
    rows = [
        {"pair_id": f"{n:016x}-000", "caption_id": f"{n:016x}", "copy": 0, "unit": 9, "label": label, "status": "ok"}
        | {"image": data, "width": 48, "height": 40}
        for n, (label, data) in enumerate([("sun", b""), ("moon", b"")])
    ]
    picture = next(tables.scan(run_folder / "pairs.lance", ["image"], "status = 'ok'"))["image"][0].as_py()
    rows = [row | {"image": picture, "width": 48, "height": 48} for row in rows]
    tables.append_unit(run_folder / "pairs.lance", 9, pairs.table(rows, pairs.PAIRS))
    write_page(run_folder)
    assert "The same picture twice" not in read(run_folder).text
    find_duplicates(run_folder)
    write_page(run_folder)
    seen = read(run_folder)
    assert "The same picture twice" in seen.text
    assert "Label conflicts, side by side" in seen.text
    assert "moon" in seen.text


@pytest.mark.skipif(not TRASHNET.exists(), reason=f"{TRASHNET} is not there")
def test_the_three_planted_pairs_of_trashnet(tmp_path, capsys):
    """As docs/duplicates.md says it is done."""
    import pyarrow.parquet as pq

    files = [name.removesuffix(".jpg") for name in pq.read_table(TRASHNET, columns=["file"])["file"].to_pylist()]
    for words in (["import", str(TRASHNET), "--out", str(tmp_path / "x")], ["duplicates", str(tmp_path / "x")]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    out = capsys.readouterr().out
    found = duplicates.gather(tmp_path / "x")
    named = [
        tuple(files[int(found.origins[row["caption_id"]].removeprefix("row "))] for row in group.rows)
        for group in found.conflicts
    ]
    assert sorted(tuple(sorted(pair)) for pair in named) == PLANTED
    assert all(group.exact for group in found.conflicts)
    assert "3 pictures stand under two labels" in out
    assert (tmp_path / "x" / "duplicates.html").read_text().count("data:image/") >= 6
