"""Sources that are not quite what they should be: nothing is lost without a word, and what is wrong is one line."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import tarfile
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reverie.errors import BrokenImage, FolderInUse, InputError, StoreError
from reverie.store import imports, tables
from reverie.store.locks import all_units_held
from reverie.store.pictures import picture_files, read_picture
from reverie.store.sources import printable
from tests.store.conftest import picture
from tests.store.test_imports import add_to_tar, coco, everything, texts, write


def account(source, folder, kind=None, **options):
    """The sum that an import ends with; it must be that of the rows in the tables and of what was not taken."""
    found = imports.import_into(source, folder, kind, **options)
    passed = sum(number for (fate, _), number in found.found.items() if fate == "not taken")
    assert found.found.total() == tables.count(folder / "captions.lance") + passed
    assert tables.verify(folder) == []
    return str(found)


def tar_of(path, *members):
    """Members as name -> bytes; a tuple (name, target) is a hard link."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            if isinstance(data, bytes):
                add_to_tar(tar, name, data)
            else:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.LNKTYPE, data
                tar.addfile(link)
    return path


# Captions, classes and file names that are none

NO_TEXT = [
    (math.nan, "no text"),
    (None, "no text"),
    (True, "the caption is not text but true or false"),
    (17, "the caption is not text but a number"),
    ({"en": "a cat"}, "the caption is not text but an object"),
    ([], "an empty list of captions"),
    ([["a"]], "the caption is not text but a list"),
    ("half \ud83d", "the caption holds half of a character (a lone surrogate)"),
    ("a\0c\0", "the caption holds zero bytes: not UTF-8 text"),
]


@pytest.mark.parametrize(("value", "reason"), NO_TEXT)
def test_a_caption_that_is_no_text_is_a_dropped_row(tmp_path, value, reason):
    lines = "".join(json.dumps({"caption": item}) + "\n" for item in ("a cat", value))
    captions, _ = everything(write(tmp_path / "a.jsonl", lines))
    assert [(row["text"], row["reason"]) for row in captions] == [("a cat", None), (None, reason)]
    if not isinstance(value, list):
        notes = [{"image_id": 7, "caption": item} for item in ("a cat", value)]
        captions, _ = everything(coco(tmp_path / "a.json", annotations=notes))
        assert [(row["text"], row["reason"]) for row in captions] == [("a cat", None), (None, reason)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [([b"a cat"], "bytes"), ([{"en": "a cat"}], "an object"), ([1.5], "a number"), ([[{"a": 1}]], "an object")],
)
def test_columns_of_parquet_that_hold_no_text(tmp_path, values, reason):
    pq.write_table(pa.table({"caption": values, "image": [picture(0)]}), tmp_path / "a.parquet")
    captions, images = everything(tmp_path / "a.parquet")
    assert captions[0]["reason"] == f"the caption is not text but {reason}"
    assert (images[0]["status"], images[0]["image"]) == ("dropped", picture(0))


@pytest.mark.parametrize(
    ("value", "label"),
    [(3, "3"), (3.0, "3"), (math.nan, None), (" owl ", "owl"), ("\ud83d", None), ({}, None), ([1], None)],
)
def test_labels(tmp_path, value, label):
    path = write(tmp_path / "a.jsonl", json.dumps({"caption": "a", "label": value}))
    row = everything(path)[0][0]
    assert row["label"] == label
    assert (row["status"] == "dropped") == (label is None and not isinstance(value, float))


@pytest.mark.parametrize(
    "name",
    [None, 17, 1.5, ["a.png"], {"a": 1}, True, "", "x\0y", "\udcff.png", "http://x.org/a.png", "x" * 5000, "sub"],
)
def test_a_file_name_that_is_none_is_a_failed_row(tmp_path, name):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(picture(0))
    path = coco(
        tmp_path / "a.json",
        images=[{"id": 7, "file_name": name}, {"id": 3, "file_name": "a.png"}],
        annotations=[{"image_id": 7, "caption": "x"}, {"image_id": 3, "caption": "y"}],
    )
    _, images = everything(path, images=tmp_path)
    assert [row["status"] for row in images] == ["failed", "ok"]
    assert texts(path) == ["x", "y"]
    rows = "".join(json.dumps({"image": item, "caption": "x"}) + "\n" for item in (name, "a.png"))
    assert [row["status"] for row in everything(write(tmp_path / "a.jsonl", rows), images=tmp_path)[1]] == [
        "failed",
        "ok",
    ]


FILES = "captions only: file_name names pictures; import them too with --images FOLDER"
ADDRESSES = "captions only: url holds web addresses, which are not followed; fetch the pictures, with img2dataset say, and import its folder"
NOT_ASKED = {
    "a.csv": ("caption,file_name\nx,a.png\ny,b.png\n", [FILES]),
    "b.csv": ("caption,bild\nx,\ny,a.JPG\n", [FILES.replace("file_name", "bild") + " --image-column bild"]),
    "c.tsv": ("caption\turl\nx\thttp://x.org/1?a=b.c\n", [ADDRESSES]),
    "d.csv": ("caption,file_name,url\nx,a.png,http://x.org/a.png\n", [FILES, ADDRESSES]),
    "e.jsonl": ('{"caption": "x", "image": "a.png"}\n', [FILES.replace("file_name", "image")]),
    "f.csv": ("caption,path,link,source\nx,notes.txt,,http://x.org/home\n", []),  # nothing in it is a picture
}


@pytest.mark.parametrize("name", NOT_ASKED)
def test_pictures_that_nobody_asked_for_are_told(tmp_path, name):
    content, told = NOT_ASKED[name]
    found = imports.import_into(write(tmp_path / name, content), tmp_path / "out")
    assert list(found.not_asked) == told
    assert list(imports.import_into(tmp_path / name, tmp_path / "out").not_asked) == told  # again, from what is stored
    assert found.found.total() == tables.count(tmp_path / "out" / "captions.lance")


def test_pictures_of_tables_and_coco_that_nobody_asked_for_are_told(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(0))
    rows = pa.table({"caption": ["x"], "file_name": ["a.png"], "url": ["http://x.org/a"], "note": ["b.png"]})
    pq.write_table(rows, tmp_path / "a.parquet")
    datasets = pytest.importorskip("datasets")
    datasets.Dataset(rows).save_to_disk(tmp_path / "saved")
    sources = {"a.parquet": [FILES, ADDRESSES], "saved": [FILES, ADDRESSES], "a.json": [FILES]}
    coco(tmp_path / "a.json", images=[{"id": 7, "file_name": "a.png"}], annotations=[{"image_id": 7, "caption": "x"}])
    for name, told in sources.items():
        found = imports.import_into(tmp_path / name, tmp_path / f"out {name}")
        assert list(found.not_asked) == told, name
        asked = imports.import_into(tmp_path / name, tmp_path / f"with {name}", images=tmp_path)
        assert (list(asked.not_asked), asked.counts["images ok"]) == ([], 1), name


def test_a_tar_with_pictures_says_nothing_of_where_they_came_from(tmp_path):
    facts = json.dumps({"caption": "x", "url": "http://x.org/a.jpg", "file_name": "a.jpg"}).encode()
    source = tar_of(tmp_path / "a.tar", ("a.png", picture(0)), ("a.json", facts))
    assert not imports.import_into(source, tmp_path / "out").not_asked


def test_one_bad_annotation_is_a_dropped_row(tmp_path):
    notes = [
        {"image_id": 7, "caption": "good"},
        {"image_id": 9, "caption": "strange"},
        {"image_id": 7},
        {"caption": "x"},
        17,
        {"image_id": [7], "caption": "x"},
    ]
    sum_ = account(coco(tmp_path / "a.json", annotations=notes), tmp_path / "out")
    assert sum_.startswith("7 found = 1 taken + 5 dropped (2 its image is not among the images; ")
    assert sum_.endswith("+ 1 not taken (an image without a caption)")


def test_images_of_one_id_are_not_mixed_up(tmp_path):
    """Nothing says which of them a caption is of; one that stands there twice is one image."""
    (tmp_path / "a.png").write_bytes(picture(0))
    files = [(1, "a.png"), (1, "b.png"), (2, "a.png"), (2, "a.png")]
    path = coco(
        tmp_path / "a.json",
        images=[*({"id": number, "file_name": file} for number, file in files), 17],
        annotations=[{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": "y"}],
    )
    sum_ = account(path, tmp_path / "out", images=tmp_path)
    assert sum_.startswith("3 found = 1 taken + 1 dropped (several images have its image_id) + 1 not taken (an entry")


def test_karpathy_entries_that_are_damaged(tmp_path):
    good = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "one"}, {"tokens": []}, "two"]}
    path = write(
        tmp_path / "a.json", json.dumps({"images": [good, {"filename": "b.jpg"}, 17, good | {"sentences": []}]})
    )
    assert account(path, tmp_path / "out").startswith("6 found = 1 taken + 5 dropped (")
    with pytest.raises(InputError, match="has no split 'tset'; it has test"):
        everything(path, split="tset")


@pytest.mark.parametrize("kind", ["a.json", "a.jsonl"])
def test_json_that_is_nested_too_deeply(tmp_path, kind):
    with pytest.raises(InputError, match="not JSON"):
        everything(write(tmp_path / kind, "[" * 100_000))


# Files that are damaged, or none


@pytest.mark.parametrize("name", ["a.txt.gz", "a.csv.gz", "a.jsonl.gz", "a.json.gz", "a.tar.gz"])
def test_gzip_with_any_damage(tmp_path, name):
    content = {
        "a.json.gz": json.dumps(
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": "x"}] * 9}
        ).encode()
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_to_tar(tar, "a.txt", b"a cat")
    content["a.tar.gz"] = buffer.getvalue()
    rows = "".join(f'{{"text": "row {number * 7919 % 1000}"}}\n' for number in range(300)).encode()
    whole = gzip.compress(content.get(name, b"text\n" * (name == "a.csv.gz") + rows))
    for place in [*range(0, 30), *range(30, len(whole), max(len(whole) // 40, 1))]:
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :]):
            (tmp_path / name).write_bytes(data)
            with suppress(InputError):  # and nothing else
                everything(tmp_path / name)


def test_text_that_is_not_utf8_is_told_by_its_true_place(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a cat\n" * 20_000 + b"caf\xe9\n")
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text: .* at byte 120003 \(line 20001\)"):
        everything(tmp_path / "a.txt")
    with pytest.raises(
        InputError, match=r"q\.csv: ',' expected after '\"' in line 3; quotes within a field are written twice"
    ):
        everything(write(tmp_path / "q.csv", 'caption\nb\n"a "quoted" dog"\n'))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json", "a.jsonl", "a.parquet", "a.tar"])
def test_a_named_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a named pipe; give a file"):
        everything(tmp_path / name)


def test_columns_with_one_name(tmp_path):
    with pytest.raises(InputError, match="several columns called 'text'"):
        everything(write(tmp_path / "a.csv", "text,text\na,b\n"))


# Image folders


def test_what_is_in_a_folder_and_not_taken_is_counted(tmp_path):
    folder = tmp_path / "f"
    for name in (
        "c/a.jpg",
        "c/b.jfif",
        "c/d.JPE",
        "c/.ipynb_checkpoints/a.jpg",
        "c/noending",
        "c/deep/e.jpg",
        "__MACOSX/._a.jpg",
        "loose.jpg",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(len(name), form="JPEG"))
    (folder / "c" / "f.avif").write_bytes(picture(1, form="AVIF"))
    for name in ("c/notes.txt", "c/LICENSE"):
        (folder / name).write_bytes(b"words")
    (tmp_path / "elsewhere").mkdir()
    (folder / "c" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "c" / "dead.jpg").symlink_to(tmp_path / "nothing.jpg")
    os.mkfifo(folder / "c" / "pipe.jpg")
    sum_ = account(folder, tmp_path / "out")
    assert sum_.startswith(
        "14 found = 6 taken + 2 failed (1 a link to nothing, not a file; 1 a named pipe, not a file)"
    )
    reasons = sum_.partition("6 not taken (")[2].removesuffix(")").split("; ")
    assert sorted(reasons) == [
        "1 .txt file",
        "1 a link to a folder, which is not followed",
        "1 beside the class folders",
        "1 file without an ending",
        "2 hidden",
    ]


def test_a_folder_that_is_named_as_a_file_is_counted(tmp_path):
    """In class folders, beside a metadata file, among shards, and where photos are named to a model."""
    for name in ("classes/c", "meta"):
        (tmp_path / name / "d.jpg").mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(picture(1))
    (tmp_path / "meta" / "metadata.csv").write_text("file_name,text\na.png,a cat\n")
    (tmp_path / "shards" / "d.tar").mkdir(parents=True)
    tar_of(tmp_path / "shards" / "a.tar", ("a.png", picture(1)), ("a.txt", b"a cat"))
    (tmp_path / "table.csv").write_text("image,text\na.png,a cat\nd.jpg,a dog\n")
    said = account(tmp_path / "classes", tmp_path / "out0")
    assert str(said) == "2 found = 1 taken + 1 failed (a folder, not a file)"
    said = account(tmp_path / "meta", tmp_path / "out1")
    assert str(said) == "2 found = 1 taken + 1 not taken (not named in the metadata)"
    said = account(tmp_path / "shards", tmp_path / "out2")
    assert str(said) == "2 found = 1 taken + 1 not taken (folder beside the shards)"
    said = account(tmp_path / "table.csv", tmp_path / "out3", images=tmp_path / "meta")
    assert str(said) == "2 found = 1 taken + 1 failed (a folder, not a file)"
    (tmp_path / "classes" / "b").write_bytes(picture(2))  # a picture without an ending, and what is none
    (tmp_path / "classes" / "LICENSE").write_bytes(b"words")
    files = picture_files([tmp_path / "classes"])
    assert [file.name for file in files] == ["b", "a.png", "d.jpg"]
    with pytest.raises(BrokenImage, match=r"d\.jpg: a folder, not a file"):
        read_picture(files[2])


def test_names_in_bytes_that_are_no_text(tmp_path):
    for name in (b"cat/caf\xe9.jpg", b"cat/b.jpg", b"d\xf6g/a.jpg"):
        path = tmp_path / "f" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(1))
    captions, images = everything(tmp_path / "f")
    assert [row["source"] for row in captions[:2]] == ["import: cat/b.jpg", "import: cat/caf\\xe9.jpg"]
    assert [row["status"] for row in images] == ["ok", "ok", "dropped"]
    assert captions[2]["reason"] == "the class is not UTF-8 text"
    assert printable("\ud83d and \udcff") == "\\ud83d and \\udcff"


def test_metadata_of_an_imagefolder(tmp_path):
    folder = tmp_path / "f"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            (folder / split / name).write_bytes(picture(1))
    write(folder / "train" / "metadata.csv", "file_name,text\na.png,a cat\n")
    write(
        folder / "test" / "metadata.jsonl",
        '{"file_name": "b.png", "caption": "a dog"}\n{"file_name": "c.png", "caption": "x"}\n',
    )
    with pytest.raises(InputError, match=r"several splits \(test, train\); choose one with --split"):
        everything(folder)
    assert (
        account(folder, tmp_path / "out", split="train")
        == "2 found = 1 taken + 1 not taken (not named in the metadata)"
    )
    assert account(folder, tmp_path / "out2", split="test").startswith("3 found = 1 taken + 1 failed (no image file)")
    pq.write_table(
        pa.table({"file_name": ["train/a.png", "test/b.png"], "label": ["cat", "dog"]}), folder / "metadata.parquet"
    )
    (folder / "train" / "metadata.csv").unlink()
    (folder / "test" / "metadata.jsonl").unlink()
    assert [row["label"] for row in everything(folder)[0]] == ["cat", "dog"]
    write(folder / "metadata.csv", "file_name,text\n")
    with pytest.raises(InputError, match=r"has metadata\.csv and metadata\.parquet; keep one"):
        everything(folder)


def test_what_lies_beside_tables_is_counted(tmp_path):
    """But the pictures that they name; and a folder that is named as a table, as Spark writes it, is looked into."""
    source = tmp_path / "tables"
    for name in ("a.parquet", "pictures", ".git"):
        (source / name).mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (source / "pictures" / name).write_bytes(picture(len(name)))
    rows = {"caption": ["a cat"], "file": ["a.png"]}
    pq.write_table(pa.table(rows), source / "a.parquet" / "part-0.PARQUET")
    for name in ("more.csv", "a.parquet/_SUCCESS", ".git/config"):
        write(source / name, "x")
    sum_ = account(source, tmp_path / "out", "parquet", images=source / "pictures", image_column="file")
    assert sum_.startswith("5 found = 1 taken + 4 not taken (1 ")
    reasons = sum_.partition("not taken (")[2].removesuffix(")").split("; ")
    assert sorted(reasons) == [
        "1 .csv file beside the tables",
        "1 .png file beside the tables",
        "1 hidden",
        "1 other file beside the tables",
    ]


def test_tables_of_ours_are_no_source(tmp_path):
    account(write(tmp_path / "a.txt", "a cat\n"), tmp_path / "out")
    with pytest.raises(InputError, match="out holds tables that are imported or made already"):
        imports.guess_kind(tmp_path / "out")


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("training", "validation", "test")])
def test_splits_of_an_image_folder_are_no_classes(tmp_path, names):
    for number, name in enumerate(names):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "a.png").write_bytes(picture(number))
    with pytest.raises(InputError, match="has several splits"):
        everything(tmp_path)
    captions, images = everything(tmp_path, split=names[1])
    assert ([row["label"] for row in captions], images[0]["image"]) == (["cat"], picture(1))
    with pytest.raises(InputError, match="has no split 'other'"):
        everything(tmp_path, split="other")
    (tmp_path / "outer").mkdir()
    for name in names:  # such as data/train and data/test
        (tmp_path / name).rename(tmp_path / "outer" / name)
    with pytest.raises(InputError, match="has several splits"):
        everything(tmp_path)
    assert [row["label"] for row in everything(tmp_path, split=names[1])[0]] == ["cat"]


def test_classes_that_lie_one_level_deeper_are_no_class(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / "images" / name).mkdir(parents=True)
        (tmp_path / "data" / "images" / name / "a.png").write_bytes(picture(1))
    write(tmp_path / "data" / "README.txt", "words")
    write(tmp_path / "data" / "images" / "labels.txt", "words")
    for source in (tmp_path / "data", tmp_path):
        inside = next(item for item in source.iterdir() if item.is_dir()).name
        with pytest.raises(InputError) as caught:
            everything(source)
        assert str(caught.value) == (
            f"{source} holds one folder, {inside}, which holds no images but folders of images (cat, dog); if these are the "
            f"classes, give {tmp_path / 'data' / 'images'}; if {inside} is the class, put its images into it"
        )
    assert [row["label"] for row in everything(tmp_path / "data" / "images")[0]] == ["cat", "dog"]
    (tmp_path / "data" / "images" / "b.png").write_bytes(picture(1))  # so images is a class, with images at any depth
    assert [row["label"] for row in everything(tmp_path / "data")[0]] == ["images"] * 3
    (tmp_path / "data" / "images" / "b.png").unlink()
    (tmp_path / "data" / "images").rename(tmp_path / "data" / "train")
    assert [row["label"] for row in everything(tmp_path / "data")[0]] == ["cat", "dog"]


def test_what_looks_like_splits_and_may_be_classes(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(picture(0))
    with pytest.raises(InputError, match="looks like splits"):
        everything(tmp_path)
    (tmp_path / "car").mkdir()
    (tmp_path / "car" / "a.png").write_bytes(picture(0))
    assert [row["label"] for row in everything(tmp_path)[0]] == ["car", "test", "train"]


def test_tables_inside_of_the_source(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.png").write_bytes(picture(0))
    with pytest.raises(InputError, match="lies in the source"):
        imports.import_into(tmp_path, tmp_path / "real")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images for class empty; each of its folders counts as a class"):
        everything(tmp_path)


# What kind a folder is, and flags


def test_kinds_of_folders(tmp_path):
    tar_of(tmp_path / "00000.tar", ("a.jpg", picture(0, form="JPEG")), ("a.txt", b"a cat"))
    pq.write_table(pa.table({"caption": ["a cat", "failed"]}), tmp_path / "00000.parquet")
    write(tmp_path / "00000_stats.json", "{}")
    assert account(tmp_path, tmp_path.parent / f"{tmp_path.name}-out").startswith("3 found = 1 taken + 2 not taken (1 ")
    pq.write_table(pa.table({"caption": ["other"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="several kinds of source: webdataset, parquet; say with --kind"):
        imports.guess_kind(tmp_path)
    (tmp_path / "only").mkdir()
    (tmp_path / "00000.tar").rename(tmp_path / "only" / "a.tar")
    assert imports.guess_kind(tmp_path / "only") == "webdataset"
    (tmp_path / "only" / "a.tar").rename(tmp_path / "only" / "a.tgz")
    assert imports.guess_kind(tmp_path / "only") == "webdataset"
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(picture(0))
    with pytest.raises(InputError, match="several kinds of source: parquet, folder"):
        imports.guess_kind(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "{0},text\na.png,a cat\n"), ("a.jsonl", '{{"{0}": "a.png", "caption": "a cat"}}\n')]
)
def test_images_flag_finds_columns_of_file_names(tmp_path, name, content):
    (tmp_path / "a.png").write_bytes(picture(0))
    for column in ("file_name", "filepath", "image_path", "image", "Filename"):
        _, images = everything(write(tmp_path / name, content.format(column)), images=tmp_path)
        assert [row["status"] for row in images] == ["ok"], column
    with pytest.raises(InputError, match="no column of images for --images; say with --image-column which of foto, "):
        everything(write(tmp_path / name, content.format("foto")), images=tmp_path)


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("a.txt", "split", "train"),
        ("a.txt", "text_column", "x"),
        ("a.txt", "images", "."),
        ("a.csv", "split", "train"),
        ("a.csv", "captions_per_image", 2),
        ("a.tar", "images", "."),
        ("a.tar", "split", "train"),
        ("a.json", "text_column", "x"),
    ],
)
def test_a_flag_that_would_be_passed_over_is_refused(tmp_path, name, flag, value):
    with pytest.raises(InputError, match=f"--{flag.replace('_', '-')} says nothing of a source of kind"):
        everything(write(tmp_path / name, "x"), **{flag: value})


@pytest.mark.parametrize("number", [0, -1])
def test_captions_per_image_below_its_range(tmp_path, number):
    with pytest.raises(InputError, match=f"--captions-per-image {number} leaves no captions"):
        everything(coco(tmp_path / "a.json"), captions_per_image=number)


# WebDataset

A, B = ("a.jpg", picture(1, form="JPEG")), ("b.jpg", picture(2, form="JPEG"))
TEXT_A, TEXT_B = ("a.txt", b"one"), ("b.txt", b"two")


def test_a_shard_that_ends_early_or_is_damaged_is_refused_whole(tmp_path):
    """Cut at every block, and with every header damaged: never a part of the samples with exit 0."""
    path = tar_of(tmp_path / "a.tar", *((f"{number}.txt", b"x") for number in range(4)))
    whole = path.read_bytes()
    for end in range(512, 8 * 512 + 1, 256):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="as tar: "):
            everything(path)
    for header in range(0, 8 * 512, 1024):
        path.write_bytes(whole[: header + 100] + b"9" + whole[header + 101 :])
        with pytest.raises(InputError, match="as tar: "):
            everything(path)
    more = tar_of(tmp_path / "b.tar", ("other.txt", b"x")).read_bytes()
    path.write_bytes(whole + more)
    assert len(texts(path)) == 5  # joined tars are read to the end
    path.write_bytes(whole + b"rest" * 200)
    with pytest.raises(InputError, match="as tar: "):
        everything(path)


@pytest.mark.parametrize("members", [(A, B, TEXT_A, TEXT_B), (TEXT_A, TEXT_B, A, B), (A, TEXT_A, B, TEXT_B, A, TEXT_A)])
def test_a_shard_out_of_order_is_refused_before_anything_is_taken(tmp_path, members):
    with pytest.raises(InputError, match="members of sample 'a' do not stand together; sort the members by name"):
        imports.import_into(tar_of(tmp_path / "a.tar", *members), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_members_that_make_no_whole_sample_are_told(tmp_path):
    path = tar_of(
        tmp_path / "a.tar",
        *(A, TEXT_A, A, TEXT_A, B, TEXT_B),
        *(("c.jfif", B[1]), ("c.txt", b"three")),
        *(("d.left.jpg", B[1]), ("d.right.jpg", B[1]), ("d.txt", b"four")),
        *(("e.jpg", "b.jpg"), ("e.txt", b"five")),
        ("f.txt", b"six"),
        *(("g.jpg", B[1]), ("g.png", picture(3)), ("g.txt", b"seven")),
        *(("h.jpg", B[1]), ("h.txt", "caf\u00e9".encode("latin-1"))),
        *(("i.jpg", B[1]), ("i.txt", "\ufeffeight".encode())),
        *(("j.jpg", B[1]), ("j.npy", b"xx"), ("j.txt", b"nine"), ("noending", b""), (".hidden", b"")),
    )
    captions, images = everything(path)
    assert [(row["text"], row["reason"]) for row in images] == [
        (None, "it has several members that end in .jpg"),
        ("two", None),
        ("three", None),
        (
            "four",
            "its pictures end in .left.jpg, .right.jpg; say with --image-column which one it is, without the first dot",
        ),
        ("five", "the image is a link, which is not followed"),
        ("six", "no image"),
        ("seven", "its pictures end in .jpg, .png; say with --image-column which one it is, without the first dot"),
        (None, "characters lost in decoding: .txt is not UTF-8 text"),
        ("eight", None),
        ("nine", None),
    ]
    assert len(captions) == 10
    assert account(path, tmp_path / "out").endswith(
        "3 not taken (1 member without an ending; 1 hidden member; 1 member that is not read: .npy)"
    )
    assert [row["status"] for row in everything(path, image_column="left.jpg")[1]].count("ok") == 1


def test_names_with_dots_in_a_shard(tmp_path):
    members = [
        (f"IMG.{number:03d}.{ending}", data) for number in range(3) for ending, data in (("jpg", A[1]), ("txt", b"x"))
    ]
    captions, images = everything(
        tar_of(tmp_path / "a.tar", *members, A, TEXT_A, ("v1.0_b.jpg", B[1]), ("v1.0_b.txt", b"y"))
    )
    assert [row["text"] for row in captions] == ["x", "x", "x", "one", "y"]
    assert texts(tar_of(tmp_path / "b.tar", ("./a.jpg", A[1]), TEXT_A)) == ["one"]
    assert {row["status"] for row in images} == {"ok"}


def test_facts_in_a_tar_name_no_file_on_the_disk(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(0))
    path = tar_of(tmp_path / "a.tar", ("a.json", b'{"caption": "x", "image": "secret.png"}'))
    assert everything(path)[1] == []


# Hugging Face


@pytest.mark.parametrize("form", ["torch", "numpy", "pandas", "arrow", "columns"])
def test_a_dataset_that_was_saved_with_a_format(tmp_path, form):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    data = data.with_format("numpy", columns=["label"]) if form == "columns" else data.with_format(form)
    data.save_to_disk(tmp_path / "d")
    assert [(row["text"], row["label"]) for row in everything(tmp_path / "d")[0]] == [("a", "cat"), ("b", "dog")]


def test_a_dataset_that_is_empty_or_damaged(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": ["a", "b"]})
    data.select([]).save_to_disk(tmp_path / "empty")
    with pytest.raises(InputError, match="holds no captions"):
        everything(tmp_path / "empty")
    for number, file in enumerate(("state.json", "dataset_info.json", "data-00000-of-00001.arrow")):
        for content in (b"", b"{}", b"[1", None):
            folder = tmp_path / f"{number}"
            data.save_to_disk(folder)
            if content is None:
                (folder / file).unlink()
            else:
                (folder / file).write_bytes(content)
            with suppress(InputError):  # some files say nothing that the rows do not say, too
                assert texts(folder, "huggingface") == ["a", "b"]


# Two at once, and tables that are damaged


def test_a_second_import_is_told_that_the_first_is_at_work(tmp_path, monkeypatch):
    one, two = write(tmp_path / "one.txt", "a\n"), write(tmp_path / "two.txt", "b\n")
    append = tables.append_unit

    def meanwhile(*args):
        monkeypatch.setattr(tables, "append_unit", append)
        with pytest.raises(FolderInUse, match="another process is at work"):
            imports.import_into(two, tmp_path / "run", name="two")
        append(*args)

    monkeypatch.setattr(tables, "append_unit", meanwhile)
    imports.import_into(one, tmp_path / "run", name="one")
    imports.import_into(two, tmp_path / "run", name="two")
    assert tables.count(tmp_path / "run" / "captions.lance") == 2
    assert tables.verify(tmp_path / "run") == []


def test_the_lock_is_that_of_runs(tmp_path):
    import subprocess
    import sys

    hold = (
        "import sys; from pathlib import Path; from reverie.run.folder import units_held\n"
        f"with units_held(Path({str(tmp_path)!r}), range(5, 6)): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse), all_units_held(tmp_path):
            pass
        other.stdin.close()
    with all_units_held(tmp_path), pytest.raises(FolderInUse), all_units_held(tmp_path):
        pass
    with all_units_held(tmp_path):
        pass


def test_a_damaged_table_is_told_in_words(run_folder):
    (run_folder / "other").mkdir()
    for name in ("pairs.lance", "captions.lance"):
        data = sorted((run_folder / name / "data").iterdir())[0]
        whole = data.read_bytes()
        for damaged in (whole[:-100], whole[:50], b"", bytes(len(whole))):
            data.write_bytes(damaged)
            tables._units_seen.clear()
            problems = tables.verify(run_folder)
            assert problems
            assert all("\n" not in problem for problem in problems)
            with pytest.raises(StoreError):
                list(tables.scan(run_folder / name))
        data.write_bytes(whole)
        tables._units_seen.clear()
        assert tables.verify(run_folder) == []
        (run_folder / name / "_versions").rename(run_folder / "other" / name)
        assert "is damaged: its versions are missing" in tables.verify(run_folder)[-1]
        with pytest.raises(StoreError, match="versions are missing"):
            tables.done_units(run_folder / name)
        (run_folder / "other" / name).rename(run_folder / name / "_versions")
    assert tables.verify(run_folder) == []


# Filters

NO_FILTERS = [
    "clip_score > 0,99",
    "status = 'ok' copy > 100",
    "copy > 0 status",
    "status = 'ok';",
    "status = 'ok' -- and copy > 1",
    "status = 'ok' /* and copy > 1",
    "copy > 0) or (copy < 1",
    "(copy > 0",
    "copy > 0)",
    "status = 'ok",
    "copy > 0 limit 1",
    "copy > 0 order by unit",
    "copy > 0 and",
    "",
    "  ",
    "copy",
    "1",
]


@pytest.mark.parametrize("where", NO_FILTERS)
def test_a_filter_is_read_to_its_end_or_refused(run_folder, where):
    pairs = run_folder / "pairs.lance"
    for use in (
        lambda: tables.count(pairs, where),
        lambda: list(tables.scan(pairs, ["unit"], where)),
        lambda: tables.read_unit(pairs, 0, ["unit"], where=where),
        lambda: tables.check_filter(where, tables.open_table(pairs).schema),
    ):
        with pytest.raises(InputError) as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        "status = 'ok'",
        "text != 'it''s (odd; -- /*'",
        "`copy` between 0 and 1 or (label in ('a', ';'))",
        "not (copy > 1)",
        "true",
    ],
)
def test_filters_that_are_whole(run_folder, where):
    tables.check_filter(where, tables.open_table(run_folder / "pairs.lance").schema)
    assert tables.count(run_folder / "pairs.lance", where) == 24
