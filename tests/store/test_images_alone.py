"""Images of which nobody said anything: welcome where they are asked for, and dropped with a reason where they are not."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reverie.cli.main import main
from reverie.errors import InputError, StoreError
from reverie.hub import write_card
from reverie.store import exports, imports, tables
from tests.store.conftest import picture
from tests.store.test_odd_sources import account, tar_of

TEXTS = ["a fox", None, "", "an owl", "  "]  # of five pictures


def pictures(folder: Path, count: int = 5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number))
    return folder


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Five pictures of which two have a text."""
    own = pictures(folder / "images")
    named = [{"file_name": f"{number}.png", "text": text} for number, text in enumerate(TEXTS)]
    if kind == "jsonl":
        return lines(folder / "a.jsonl", named), {"images": own}
    if kind == "csv":
        (folder / "a.csv").write_text("file_name,text\n" + "".join(f"{n}.png,{t or ''}\n" for n, t in enumerate(TEXTS)))
        return folder / "a.csv", {"images": own}
    if kind == "folder":
        lines(own / "metadata.jsonl", named[:4])  # the last is not named there
        return own, {}
    if kind == "parquet":
        table = pa.table({"image": [picture(number) for number in range(5)], "caption": TEXTS})
        pq.write_table(table, folder / "a.parquet")
        return folder / "a.parquet", {}
    if kind == "huggingface":
        datasets = pytest.importorskip("datasets")
        rows = {"image": [picture(number) for number in range(5)], "caption": TEXTS}
        datasets.Dataset.from_dict(rows).save_to_disk(folder / "saved")
        return folder / "saved", {}
    if kind == "lists":
        table = pa.table(
            {
                "image": [picture(number) for number in range(5)],
                "captions": [["a fox", ""], [], [None, ""], ["", "an owl"], None],
            }
        )
        pq.write_table(table, folder / "a.parquet")
        return folder / "a.parquet", {}
    if kind == "coco":
        notes = [
            {"image_id": number, "caption": text} for number, text in enumerate(TEXTS) if number != 1
        ]  # of one, nothing
        notes.append({"image_id": 3, "caption": ""})  # it has another
        images = [{"id": number, "file_name": f"{number}.png"} for number in range(5)]
        (folder / "a.json").write_text(json.dumps({"images": images, "annotations": notes}))
        return folder / "a.json", {"images": own}
    if kind == "karpathy":
        said = [[{"raw": "a fox"}], [], [{"raw": ""}, {"raw": None}], [{"raw": "an owl"}], None]
        images = [
            {"filename": f"{number}.png", "split": "train"} | ({} if some is None else {"sentences": some})
            for number, some in enumerate(said)
        ]
        (folder / "a.json").write_text(json.dumps({"images": images}))
        return folder / "a.json", {"images": own, "split": "train"}
    # As img2dataset writes them: a text that is missing is an empty .txt, or null in .json; and one sample is a picture alone.
    members: list[tuple[str, bytes]] = []
    for number, text in enumerate(TEXTS):
        members.append((f"{number}.jpg", picture(number, form="JPEG")))
        if number != 4:
            members.append((f"{number}.json", json.dumps({"caption": text, "url": "x"}).encode()))
        if text is not None and number != 4:
            members.append((f"{number}.txt", text.encode()))
    return tar_of(folder / "a.tar", *members), {}


KINDS = ["jsonl", "csv", "folder", "parquet", "lists", "coco", "karpathy", "webdataset", "huggingface"]


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_text_are_pairs_where_they_are_wanted(kind: str, tmp_path: Path) -> None:
    path, options = source(kind, tmp_path)
    told = imports.import_into(path, tmp_path / "out", without_text="keep", **options)
    found = tables.open_table(tmp_path / "out" / "pairs.lance").to_table().to_pylist()
    ok = [row for row in found if row["status"] == "ok"]
    assert sorted(row["text"] or "" for row in ok) == ["", "", "", "a fox", "an owl"]
    assert {row["text"] for row in ok} == {None, "a fox", "an owl"}
    assert len({row["pair_id"] for row in found}) == len(found)
    assert len({row["image"] for row in ok}) == 5  # each image once
    captions = tables.open_table(tmp_path / "out" / "captions.lance").to_table().to_pylist()
    assert sorted(row["text"] for row in captions if row["status"] == "ok") == ["a fox", "an owl"]
    assert [row["reason"] for row in captions].count("no text, an image alone") == 3
    assert told.counts["images without text"] == 3
    assert (told.counts["captions"] - told.counts["dropped captions"], told.counts["images ok"]) == (2, 5)
    assert "5 taken" in str(told)
    assert tables.verify(tmp_path / "out") == []
    again = imports.import_into(path, tmp_path / "out", without_text="keep", **options)
    assert (str(again), again.counts) == (str(told), told.counts)


@pytest.mark.parametrize("kind", KINDS)
def test_by_default_a_source_with_captions_drops_them_and_says_so(kind: str, tmp_path: Path) -> None:
    path, options = source(kind, tmp_path)
    assert "2 taken" in account(path, tmp_path / "out", **options)
    pairs = tmp_path / "out" / "pairs.lance"
    assert tables.count(pairs, "status = 'ok'") == tables.count(pairs, "status = 'ok' and text <> ''") == 2
    if kind in ("jsonl", "parquet"):
        with pytest.raises(StoreError, match="imported without --without-text keep; import it so again, or"):
            imports.import_into(path, tmp_path / "out", without_text="keep", **options)


def test_a_folder_of_pictures_is_taken_as_it_is(tmp_path: Path) -> None:
    flat = pictures(tmp_path / "flat", 3)
    (flat / "notes.pdf").write_bytes(b"words")
    (flat / "broken.jpg").write_bytes(b"broken")
    said = account(flat, tmp_path / "out")
    assert said.startswith("5 found = 3 taken + 1 failed (not a JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF image)")
    assert said.endswith(" + 1 not taken (.pdf file)")
    rows = tables.open_table(tmp_path / "out" / "pairs.lance").to_table().to_pylist()
    assert [(row["text"], row["label"], row["status"]) for row in rows] == [(None, None, "ok")] * 3 + [
        (None, None, "failed")
    ]
    sources = tables.open_table(tmp_path / "out" / "captions.lance").to_table()["source"].to_pylist()
    assert sources == ["import: 0.png", "import: 1.png", "import: 2.png", "import: broken.jpg"]


def test_a_text_file_beside_a_picture_is_its_caption(tmp_path: Path) -> None:
    flat = pictures(tmp_path / "flat", 7)
    (flat / "0.txt").write_text("\ufeffa fox\n", encoding="utf-8")
    (flat / "1.caption").write_text("a red fox")
    (flat / "2.txt").write_text(" \n")
    (flat / "3.txt").write_bytes(b"\xff\xfe a fox")
    (flat / "4.txt").symlink_to(tmp_path / "nowhere")
    (flat / "5.txt").write_text("word " * 20_000)
    (flat / "9.txt").write_text("of no picture")
    (flat / "a.json").write_text("{}")
    said = account(flat, tmp_path / "out")
    assert said == (
        "9 found = 4 taken + 3 dropped (1 its text is not UTF-8; 1 a link to nothing in place of a text file; 1 its text file has more than 64,000 bytes) "
        "+ 2 not taken (1 .json file; 1 .txt file)"
    )
    rows = tables.open_table(tmp_path / "out" / "pairs.lance").to_table().to_pylist()
    assert [row["text"] for row in rows if row["status"] == "ok"] == ["a fox", "a red fox", None, None]
    # Those without are dropped where that is asked for.
    said = account(flat, tmp_path / "dropped", without_text="drop")
    assert said.startswith("9 found = 2 taken + 5 dropped (2 no text; 1 its text")
    # Class folders keep their classes, and it is said what else could be meant.
    classes = tmp_path / "photos"
    pictures(classes / "fox", 2)
    (classes / "fox" / "0.TXT").write_text("a fox in the snow")
    found = imports.import_into(classes, tmp_path / "classes")
    assert list(found.not_asked) == [
        "text files of the same name lie beside pictures: if they are captions, take them in place of the names of folders with --kind pictures"
    ]
    imports.import_into(classes, tmp_path / "deep", "pictures")
    assert tables.count(tmp_path / "deep" / "pairs.lance", "text = 'a fox in the snow' and label is null") == 1


def test_where_nearly_all_pictures_in_folders_have_a_text_file_it_is_asked_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As img2dataset writes files: shards are folders, each with a table of all that was asked for beside it."""
    shards = tmp_path / "shards"
    for name, count in (("00000", 6), ("00001", 4)):
        pictures(shards / name, count)
        for number in range(count):
            (shards / name / f"{number}.json").write_text("{}")
            (shards / name / f"{number}.{'txt' if number % 2 else 'TXT'}").write_text(f"fox {number}")
        pq.write_table(pa.table({"url": ["x"], "caption": ["a fox"]}), shards / f"{name}.parquet")
        (shards / f"{name}_stats.json").write_text("{}")
    (shards / "00001" / "3.txt").unlink()  # nine of ten are left
    asked = (
        f"text files of the same name lie beside the pictures of {shards}: give --kind pictures if they are captions, or --kind folder if "
        "the names of folders are classes"
    )
    with pytest.raises(SystemExit) as stop:
        main(["import", str(shards), "--out", str(tmp_path / "out")])
    assert (stop.value.code, capsys.readouterr().err) == (2, f"reverie: {asked}\n")
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        InputError,
        match=r"give --kind pictures if they are captions.*; here is no --kind, so import it with reverie import first",
    ):
        imports.guess_kind_unasked(shards)  # where there is no such flag
    imports.import_into(shards, tmp_path / "captions", "pictures")
    assert tables.count(tmp_path / "captions" / "pairs.lance", "text like 'fox %' and label is null") == 9
    imports.import_into(shards, tmp_path / "classes", "folder")
    assert tables.count(tmp_path / "classes" / "pairs.lance", "label = '00000'") == 6
    for table in shards.glob("*.parquet"):
        table.unlink()
    with pytest.raises(InputError, match="give --kind pictures if they are captions"):
        imports.import_into(shards, tmp_path / "out")
    (shards / "00001" / "2.TXT").unlink()
    assert imports.guess_kind(shards) == "folder"
    (shards / "00001" / "2.TXT").write_text("fox 2")
    lines(shards / "00001" / "metadata.jsonl", [{"file_name": "0.png", "text": "a fox"}])
    assert imports.guess_kind(shards) == "folder"  # the metadata says what they show


def test_text_files_with_other_endings_blank_ones_and_links(tmp_path: Path) -> None:
    flat = pictures(tmp_path / "flat", 8)
    (flat / "a.jpg").write_bytes(picture(9))
    (flat / "a.jpg").rename(flat / "IMG.JPG")
    (flat / "IMG.TXT").write_text("in capitals")
    (flat / "0.Caption").write_text("in both")
    (flat / "1.txt").write_text(" \n")
    (flat / "1.caption").write_text("behind a blank one")
    (flat / "2.txt").write_text("the first")
    (flat / "2.caption").write_text("the second")
    (tmp_path / "key").write_text("not for anybody")
    (flat / "3.txt").symlink_to(tmp_path / "key")
    (flat / "4.txt").symlink_to("../key")
    (flat / "5.txt").symlink_to("IMG.TXT")
    (flat / "6.txt").symlink_to("6.txt")
    (flat / "7.txt").mkdir()  # stands for a file, and makes no class folders of all
    (flat / "8.png").mkdir()
    (tmp_path / "linked").symlink_to(flat)
    for source in (flat, tmp_path / "linked"):
        said = account(source, tmp_path / f"out {source.name}")
        assert said == (
            "10 found = 5 taken + 4 dropped (2 a link out of the folder in place of a text file; 1 a link that leads to itself in place of a text "
            "file; 1 a folder in place of a text file) + 1 failed (a folder, not a file)"
        )
        rows = tables.open_table(tmp_path / f"out {source.name}" / "pairs.lance").to_table().to_pylist()
        taken = [row["text"] for row in rows if row["status"] == "ok"]
        assert taken == ["in both", "behind a blank one", "the first", "in capitals", "in capitals"]


def test_a_folder_that_is_named_as_a_file_is_no_class(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos" / "fox", 2).parent
    pictures(photos / "e.txt", 1)
    pictures(photos / "f.JPG", 1)
    said = imports.import_into(photos, tmp_path / "out")
    assert str(said) == "4 found = 2 taken + 2 not taken (files in a folder that is named as a file)"
    assert not said.not_asked


def test_folders_in_folders_are_classes_unless_it_is_said_that_they_are_pictures(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos" / "2019" / "june", 2).parent.parent
    pictures(photos / "2020", 1)
    (photos / "loose.png").write_bytes(picture(9))
    (photos / "2020" / "metadata.csv").write_text("file_name,text\n0.png,a fox\n")
    found = imports.import_into(photos, tmp_path / "alone", "pictures")
    assert str(found) == "5 found = 4 taken + 1 not taken (metadata, as pictures alone are read)"
    assert found.counts["images without text"] == 4
    (photos / "2020" / "metadata.csv").unlink()
    found = imports.import_into(photos, tmp_path / "classes")
    assert list(found.not_asked) == [
        "names of folders are taken for classes: if these are none, take all pictures, at any depth, with --kind pictures"
    ]
    assert (found.counts["captions"], found.counts.get("images without text")) == (3, None)
    with pytest.raises(
        InputError, match=r"for classes, so none is without text; to take them alone, .* --kind pictures"
    ):
        imports.import_into(photos, tmp_path / "x", without_text="keep")
    with pytest.raises(InputError, match="is not a folder"):
        imports.import_into(photos / "loose.png", tmp_path / "x", "pictures")
    with pytest.raises(InputError, match="so --without-text drop would leave nothing"):
        imports.import_into(photos, tmp_path / "x", "pictures", without_text="drop")
    with pytest.raises(
        InputError, match=r"no class folders; expected .* or --kind pictures for pictures of which nothing"
    ):
        imports.import_into(photos / "2020", tmp_path / "x", "folder")


def test_damaged_texts_are_dropped_all_the_same_and_damaged_images_fail(tmp_path: Path) -> None:
    table = pa.table({"image": [picture(0), b"broken", picture(2)], "caption": pa.array([5.0, None, None])})
    pq.write_table(table, tmp_path / "a.parquet")
    said = account(tmp_path / "a.parquet", tmp_path / "out", without_text="keep")
    assert said.startswith(
        "3 found = 1 taken + 1 dropped (the caption is not text but a number) + 1 failed (not a JPEG"
    )


def test_the_first_line_need_not_have_the_key_of_the_text(tmp_path: Path) -> None:
    own = pictures(tmp_path / "images", 2)
    path = lines(tmp_path / "a.jsonl", [{"image": "0.png"}, {"image": "1.png", "alt_text": "a fox"}])
    said = imports.import_into(path, tmp_path / "out", images=own, without_text="keep")
    assert (said.counts["captions"], said.counts["images without text"]) == (1, 1)
    assert tables.count(tmp_path / "out" / "pairs.lance", "text = 'a fox'") == 1


def test_sources_without_any_caption_need_the_word(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0)]}), tmp_path / "a.parquet")
    tar_of(tmp_path / "a.tar", ("a.png", picture(0)), ("b.png", picture(1)))
    own = pictures(tmp_path / "images", 2)
    coco = {"images": [{"id": 1, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}], "categories": []}
    (tmp_path / "a.json").write_text(json.dumps(coco))
    (tmp_path / "b.json").write_text(json.dumps(coco | {"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}))
    with pytest.raises(InputError, match=r"of image it is, or take the images alone with --without-text keep$"):
        imports.import_into(tmp_path / "a.parquet", tmp_path / "out0")
    with pytest.raises(InputError, match=r"no column of captions or classes; take the images alone with --without"):
        imports.import_into(tmp_path / "a.tar", tmp_path / "out0")
    with pytest.raises(InputError, match="has no captions, and its images are read with --images FOLDER"):
        imports.import_into(tmp_path / "a.json", tmp_path / "out0", without_text="keep")
    assert account(tmp_path / "a.parquet", tmp_path / "out1", without_text="keep") == "1 found = 1 taken"
    assert account(tmp_path / "a.tar", tmp_path / "out2", without_text="keep") == "2 found = 2 taken"
    for name in ("a", "b"):
        said = account(tmp_path / f"{name}.json", tmp_path / f"out3{name}", images=own, without_text="keep")
        assert said == "2 found = 2 taken"
    found = imports.import_into(tmp_path / "a.tar", tmp_path / "out4", without_text="keep", text_column="alt")
    assert list(found.not_asked) == ["no sample has a text under alt, which --text-column names"]
    (tmp_path / "a.txt").write_text("a fox\n\n")
    with pytest.raises(InputError, match="--without-text says nothing of a source of kind text"):
        imports.import_into(tmp_path / "a.txt", tmp_path / "out0", without_text="keep")


def test_what_goes_out_says_that_there_is_no_text(tmp_path: Path) -> None:
    path, _ = source("parquet", tmp_path)
    imports.import_into(path, tmp_path / "store", without_text="keep")
    store = tmp_path / "store" / "pairs.lance"
    told = {"pairs": 5, "pairs without text": 3}
    assert exports.to_webdataset(store, tmp_path / "tars") == told | {"shards": 1}
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        endings = Counter(name.partition(".")[2] for name in tar.getnames())
    assert endings == {"png": 5, "json": 5, "txt": 2}  # who reads captions passes over what has none
    assert exports.to_parquet(store, tmp_path / "table") == told | {"files": 1}
    assert exports.to_coco(store, tmp_path / "coco") == told
    coco = json.loads((tmp_path / "coco" / "captions.json").read_text())
    assert len(coco["images"]) == 5
    assert sorted(note["caption"] for note in coco["annotations"]) == ["a fox", "an owl"]
    names = {image["id"]: image["pair_id"] for image in coco["images"]}
    texts = {
        row["pair_id"]: row["text"] for part in tables.scan(store, ["pair_id", "text"]) for row in part.to_pylist()
    }
    assert all(texts[names[note["image_id"]]] == note["caption"] for note in coco["annotations"])
    for kind, folder, options in (
        ("webdataset", "tars", {}),
        ("parquet", "table", {}),
        ("coco", "coco/captions.json", {"images": tmp_path / "coco" / "images"}),
    ):  # and back again
        found = imports.import_into(tmp_path / folder, tmp_path / f"again {kind}", kind, without_text="keep", **options)
        assert (found.counts["captions"], found.counts["images without text"]) == (2, 3), kind
    write_card(tmp_path / "tars", tmp_path / "store", data=5)
    assert "3 pictures have no text: nobody said what they show." in (tmp_path / "tars" / "README.md").read_text()
    # Who captioned them anew is a model that had a part in them.
    texts_of = {"caption_short": ["a fox"] * 5, "caption_short_by": ["owner/captioner@0123, short"] * 5}
    flags = pa.array([[]] * 5, pa.list_(pa.string()))
    said = pa.table({"pair_id": sorted(names.values()), **texts_of, "caption_short_flags": flags})
    lance.dataset(str(store)).merge(said, "pair_id")
    write_card(tmp_path / "tars", tmp_path / "store", data=5)
    assert "| owner/captioner@0123 | not said" in (tmp_path / "tars" / "README.md").read_text()
    own = pictures(tmp_path / "flat", 2)
    imports.import_into(own, tmp_path / "alone")
    assert exports.to_coco(tmp_path / "alone" / "pairs.lance", tmp_path / "coco2") == {
        "pairs": 2, "pairs without text": 2,
    }  # fmt: skip
    assert json.loads((tmp_path / "coco2" / "captions.json").read_text())["annotations"] == []
