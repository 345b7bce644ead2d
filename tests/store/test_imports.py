"""Every door in: what comes through, what does not, and the one line that says why."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reverie import pairs
from reverie.errors import InputError, MissingExtra, StoreError, UnknownName
from reverie.store import imports, tables
from tests.store.conftest import picture
from tests.store.test_pictures import bomb, turned


def everything(source, kind=None, **options):
    """All captions and pairs of a source, as dictionaries."""
    captions, images = [], []
    for unit in imports.read(source, kind, **options):
        captions += unit.captions.to_pylist()
        images += unit.pairs.to_pylist() if unit.pairs is not None else []
    return captions, images


def texts(source, kind=None, **options):
    return [row["text"] for row in everything(source, kind, **options)[0]]


def class_folder(folder, classes=("red_fox", "owl"), number=3):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(number):
            (folder / name / f"{i}.{'jpg' if i % 2 else 'PNG'}").write_bytes(
                picture(i, form="JPEG" if i % 2 else "PNG")
            )
    return folder


def add_to_tar(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


# Folders of classes


def test_image_folder(tmp_path):
    captions, images = everything(class_folder(tmp_path / "photos"), template="a photo of a {class}")
    assert [row["label"] for row in captions] == ["owl"] * 3 + ["red fox"] * 3
    assert captions[3]["text"] == images[3]["text"] == "a photo of a red fox"
    first = sorted((tmp_path / "photos" / "owl").iterdir())[0].name
    assert captions[0]["source"] == f"import: owl/{first}"
    assert images[1]["image"] == picture(1, form="JPEG")
    for caption, image in zip(captions, images, strict=True):
        assert image["pair_id"] == f"{caption['caption_id']}-000"
        assert (image["origin"], image["copy"], image["status"], image["width"], image["height"]) == (
            "real",
            0,
            "ok",
            24,
            16,
        )


def test_ids_come_from_name_and_position_not_from_paths(tmp_path):
    there = everything(class_folder(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    assert everything(tmp_path / "elsewhere" / "b") == there
    assert everything(tmp_path / "a", unit_size=2)[0][4]["caption_id"] == there[0][4]["caption_id"]
    others = [everything(tmp_path / "a", name="mine"), everything(tmp_path / "a", seed=1)]
    ids = {row["caption_id"] for captions, _ in [there, *others] for row in captions}
    assert len(ids) == 18
    assert there[0][2]["caption_id"] == pairs.caption_id(0, "folder", 2)


def test_broken_and_huge_images_become_failed_rows(tmp_path):
    folder = class_folder(tmp_path / "photos", ["x"], 2)
    (folder / "x" / "2.jpg").write_bytes(b"not a picture")
    (folder / "x" / "3.png").write_bytes(bomb())
    (folder / "x" / "4.jpg").write_bytes(picture(1, 200, 200, "JPEG")[:2000])
    (folder / "x" / "5.bmp").write_bytes(picture(5, form="BMP"))
    (folder / "x" / "6.jpg").write_bytes(b"")
    _, images = everything(folder)
    assert [row["status"] for row in images] == ["ok", "ok", "failed", "failed", "failed", "ok", "failed"]
    assert images[2]["reason"] == "not a JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF image: 13 bytes"
    assert "too many pixels to open safely" in images[3]["reason"]
    assert "cannot decode" in images[4]["reason"]
    assert images[5]["image"].startswith(b"\x89PNG")  # other forms are stored as PNG
    assert images[2]["image"] is None


@pytest.mark.parametrize(
    ("classes", "number", "message"),
    [
        ((), 0, "holds no class folders; expected photos/CLASS/IMAGE.jpg"),
        (("owl", "fox"), 0, "no images for class fox, owl"),
        (("red_fox", "Red fox"), 1, "several folders for one class: Red fox, red_fox"),
    ],
)
def test_folders_that_are_no_classes(tmp_path, classes, number, message):
    (tmp_path / "photos").mkdir()
    class_folder(tmp_path / "photos", classes, number)
    with pytest.raises(InputError, match=message):
        everything(tmp_path / "photos")


# COCO


def coco(path, **changes):
    data = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "missing.png"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": " A dog. "},
            {"id": 2, "image_id": 3, "caption": "A cat."},
            {"id": 3, "image_id": 7, "caption": "Ein Hund: \u6211."},
        ],
    } | changes
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as file:
        json.dump(data, file)
    return path


@pytest.mark.parametrize("name", ["captions.json", "captions.json.gz"])
def test_coco(tmp_path, name):
    path = coco(tmp_path / name)
    captions, images = everything(path)
    assert [row["text"] for row in captions] == ["A dog.", "A cat.", "Ein Hund: \u6211."]
    assert images == []
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(1))
    again, images = everything(path, images=tmp_path / "images")
    assert again == captions
    assert [row["status"] for row in images] == ["ok", "failed", "ok"]
    assert images[1]["reason"] == "no image file: missing.png"
    first, _ = everything(path, captions_per_image=1)
    assert first == captions[:2]


def test_karpathy_split(tmp_path):
    image = {"filename": "a.jpg", "filepath": "val", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}]}
    (tmp_path / "k.json").write_text(
        json.dumps({"images": [image, image | {"split": "train", "sentences": [{"raw": "three"}]}]})
    )
    assert texts(tmp_path / "k.json") == ["one", "two", "three"]
    assert texts(tmp_path / "k.json", split="test") == ["one", "two"]
    rest = image | {"split": "restval", "sentences": [{"raw": "four"}]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [image, image | {"split": "train"}, rest]}))
    assert texts(tmp_path / "k.json", split="train") == ["one", "two", "four"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": [{"image_id": 7, "category_id": 2}]},
            r"no annotation has a caption \(they have category_id, image_id\)",
        ),
        ({"annotations": {"7": "x"}}, "its annotations are an object, not a list"),
        ({"images": None}, "no list of images"),
    ],
)
def test_what_is_not_coco(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        everything(coco(tmp_path / "c.json", **changes))


# Text and tables


def write(path, text, encoding="utf-8"):
    with (
        gzip.open(path, "wt", encoding=encoding) if path.suffix == ".gz" else path.open("w", encoding=encoding) as file
    ):
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_plain_text(tmp_path, name):
    captions, images = everything(write(tmp_path / name, "a red fox \n\n\u043b\u0438\u0441\u0430\n"))
    assert [(row["text"], row["status"], row["reason"]) for row in captions] == [
        ("a red fox", "ok", None),
        ("", "dropped", "no text"),
        ("\u043b\u0438\u0441\u0430", "ok", None),
    ]
    assert images == []


def test_csv_and_tsv(tmp_path):
    assert texts(write(tmp_path / "a.csv", '\ufeffid,Caption\n1,"a fox, red"\n2,owl\n')) == ["a fox, red", "owl"]
    assert texts(write(tmp_path / "a.tsv", 'Prompt\tCategory\na "quoted" fox\tAnimals\n')) == ['a "quoted" fox']
    captions, _ = everything(write(tmp_path / "b.tsv.gz", "a fox\thttp://x\nan owl\thttp://y\n"), text_column="0")
    assert [row["text"] for row in captions] == ["a fox", "an owl"]
    table = write(tmp_path / "c.csv", "file,what,kind\na.png,a fox,fox\nb.png,an owl,owl\n")
    (tmp_path / "a.png").write_bytes(picture(0))
    captions, images = everything(table, text_column="what", label_column="kind", image_column="file")
    assert [(row["text"], row["label"]) for row in captions] == [("a fox", "fox"), ("an owl", "owl")]
    assert [row["reason"] for row in images] == [None, "no image file: b.png"]


def test_jsonl(tmp_path):
    lines = [{"caption": ["one", "two"], "label": 3}, {"caption": "three", "label": None}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    captions, _ = everything(path)
    assert [(row["text"], row["label"]) for row in captions] == [("one", "3"), ("two", "3"), ("three", None)]
    assert texts(path, captions_per_image=1) == ["one", "three"]
    assert texts(write(tmp_path / "b.jsonl", '"just a string"\n')) == ["just a string"]


def test_the_kind_decides_not_the_name(tmp_path):
    path = write(tmp_path / "a.txt", 'id\tcaption\n1\ta "quoted" fox, red\n')
    assert texts(path, "tsv") == ['a "quoted" fox, red']
    assert texts(write(tmp_path / "a.tsv", 'id,caption\n1,"a fox, red"\n'), "csv") == ["a fox, red"]


def refusals(source, **options):
    captions, images = everything(source, **options)
    return [(row["text"], row["status"], row["reason"]) for row in captions], [row["reason"] for row in images]


def test_a_bad_row_does_not_stop_a_table(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(0))
    path = write(tmp_path / "a.csv", "\nimage,text\na.png,a fox\n\n  \na.png\na.png,an owl,or two\na.png,a cat\n")
    captions, images = refusals(path, images=tmp_path)
    few, many = "fewer fields than the first row", "more fields than the first row"
    assert captions == [
        ("a fox", "ok", None),
        (None, "dropped", few),
        (None, "dropped", many),
        ("a cat", "ok", None),
    ]
    assert images == [None, few, many, None]
    assert refusals(path)[1] == []
    found = imports.read(write(tmp_path / "b.tsv", "a fox\t1\n\nan owl\n"), text_column="0")
    assert [row["reason"] for unit in found for row in unit.captions.to_pylist()] == [None, few]


def test_a_bad_line_does_not_stop_jsonl(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a fox"}\n{"text": "an\n17\n\n{"text": "a cat"}\n')
    assert refusals(path)[0] == [
        ("a fox", "ok", None),
        (None, "dropped", "not JSON"),
        (None, "dropped", "neither an object nor a string"),
        ("a cat", "ok", None),
    ]


def test_file_names_stay_in_the_folder_of_images(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("secret.png", "in/a.png", "in/sub/b.png"):
        (tmp_path / name).write_bytes(picture(0))
    names = ["a.png", "sub/b.png", str(tmp_path / "secret.png"), "../secret.png", "sub/../../secret.png", "x" * 5000]
    rows = [{"image": name, "caption": "a fox"} for name in names]
    sources = [
        write(tmp_path / "a.csv", "image,caption\n" + "".join(f"{name},a fox\n" for name in names)),
        write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        coco(
            tmp_path / "a.json",
            images=[{"id": number, "file_name": name} for number, name in enumerate(names)],
            annotations=[{"image_id": number, "caption": "a fox"} for number in range(len(names))],
        ),
        write(
            tmp_path / "karpathy.json",
            json.dumps({"images": [{"filename": name, "sentences": [{"raw": "a fox"}]} for name in names]}),
        ),
    ]
    for source in sources:
        captions, images = everything(source, images=tmp_path / "in")
        assert [row["status"] for row in images] == ["ok", "ok", "failed", "failed", "failed", "failed"]
        assert all("may lead out of the folder of images" in row["reason"] for row in images[2:5])
        assert images[5]["reason"].startswith("no image file: xxx")
        assert len(captions) == len(names)


def test_a_turned_photo_is_recorded_as_it_looks(tmp_path):
    (tmp_path / "photos" / "fox").mkdir(parents=True)
    (tmp_path / "photos" / "fox" / "0.jpg").write_bytes(turned("JPEG", 6)[0])
    imports.import_into(tmp_path / "photos", tmp_path / "run")
    row = tables.read_unit(tmp_path / "run" / "pairs.lance", 0).to_pylist()[0]
    assert (row["width"], row["height"]) == (48, 32)
    assert tables.verify(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        (
            "a.csv",
            "id,what\n1,x\n",
            {},
            "no column of captions or classes; say with --text-column which of id, what it is",
        ),
        ("a.csv", "id,text\n1,x\n", {"text_column": "txet"}, "no column 'txet'; give as --text-column one of id, text"),
        ("a.csv", "id,text\n1,x\n", {"label_column": "l"}, "no column 'l'; give as --label-column one of id, text"),
        ("a.csv", "id,text\n1,x\n", {"image_column": "i"}, "no column 'i'; give as --image-column one of id, text"),
        ("a.csv", "id,text\n", {}, "holds no captions"),
        ("a.txt", "", {}, "is empty"),
        ("a.jsonl", '\n{"text\n{"text": "x"}\n', {}, "line 2 is not JSON"),
        ("a.jsonl", "17\n", {}, "line 1 is neither an object nor a string"),
        ("a.json", "{", {}, "is not JSON"),
        ("a.parquet", "PAR1 not really", {}, "cannot read .*a.parquet"),
        ("a.tar", "not a tar at all", {}, "cannot read .*a.tar as tar"),
        ("a.xyz", "?", {}, "cannot tell what .*a.xyz is"),
        ("a.csv", "text,image\nx,y\n", {"images": "nowhere"}, "the folder of images nowhere does not exist"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, content, options, message):
    with pytest.raises(InputError, match=message) as caught:
        everything(write(tmp_path / name, content), **options)
    assert "\n" not in str(caught.value)


def test_other_slips(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        everything(tmp_path / "nothing.csv")
    with pytest.raises(UnknownName, match="did you mean webdataset"):
        everything(tmp_path, "webdatasets")
    with pytest.raises(InputError, match="not UTF-8 text"):
        everything(write(tmp_path / "latin.txt", "caf\u00e9\n", encoding="latin-1"))
    (tmp_path / "broken.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot read"):
        everything(tmp_path / "broken.txt.gz")


# Parquet and Hugging Face


def test_parquet_with_bytes_structs_and_file_names(tmp_path):
    columns = {"image": [picture(0), picture(1)], "label": [1, 0], "label_name": ["owl", "fox"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    captions, images = everything(tmp_path / "a.parquet")
    assert [row["text"] for row in captions] == ["owl", "fox"]
    assert [row["image"] for row in images] == columns["image"]
    (tmp_path / "b.png").write_bytes(picture(2))
    cells = [
        {"bytes": picture(1), "path": "x.png"},
        {"bytes": None, "path": "b.png"},
        None,
        {"bytes": b"", "path": None},
    ]
    pq.write_table(pa.table({"image": cells, "caption": ["a", "b", "c", None]}), tmp_path / "b.parquet")
    captions, images = everything(tmp_path / "b.parquet")
    assert [row["image"] for row in images] == [picture(1), picture(2), None, None]
    assert [row["status"] for row in images] == ["ok", "ok", "failed", "failed"]
    assert [row["status"] for row in captions] == ["ok", "ok", "ok", "dropped"]


def test_parquet_folder_with_splits_and_class_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["fox", "owl"])})
    rows = {"img": [{"bytes": picture(i), "path": None} for i in range(3)], "label": [1, 0, -1]}
    data = datasets.Dataset.from_dict(rows, features=features)
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    data.select([0]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    captions, images = everything(tmp_path, split="train")
    assert [row["label"] for row in captions] == ["owl", "fox", None]
    assert images[1]["image"] == picture(1)
    assert texts(tmp_path, split="test") == ["owl"]
    with pytest.raises(InputError, match=r"several splits \(test, train\)"):
        everything(tmp_path)
    with pytest.raises(UnknownName, match="did you mean test"):
        everything(tmp_path, split="tests")


def test_saved_dataset_folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["fox", "owl"]),
        }
    )
    rows = {"image": [{"bytes": picture(i), "path": None} for i in range(2)], "text": ["one", "two"], "label": [1, 0]}
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(tmp_path / "one")
    captions, images = everything(tmp_path / "one")
    assert [(row["text"], row["label"]) for row in captions] == [("one", "owl"), ("two", "fox")]
    assert [row["image"] for row in images] == [picture(0), picture(1)]
    datasets.DatasetDict(train=data, test=data.select([1])).save_to_disk(tmp_path / "two")
    assert texts(tmp_path / "two", split="test") == ["two"]
    with pytest.raises(InputError, match="several splits"):
        everything(tmp_path / "two")
    with pytest.raises(UnknownName, match="did you mean train"):
        everything(tmp_path / "two", split="trian")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reverie\[huggingface\]'"):
        everything(tmp_path / "one")


# WebDataset


def test_tar_shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05d}.tar", "w") as tar:
            for i in range(3):
                facts = {"caption": f"in json {shard} {i}", "label": "owl"}
                add_to_tar(tar, f"sub/{shard}{i}.png", picture(i))
                add_to_tar(tar, f"sub/{shard}{i}.json", json.dumps(facts).encode())
                if i:
                    add_to_tar(tar, f"sub/{shard}{i}.txt", b"in text")
    captions, images = everything(tmp_path)
    assert [row["text"] for row in captions] == [
        "in json 0 0",
        "in text",
        "in text",
        "in json 1 0",
        "in text",
        "in text",
    ]
    assert {row["label"] for row in captions} == {"owl"}
    assert [row["image"] for row in images] == [picture(i) for i in (0, 1, 2)] * 2
    assert texts(tmp_path / "0000?.tar".replace("?", "*")) == [row["text"] for row in captions]
    assert texts(tmp_path / "00001.tar", text_column="caption") == [f"in json 1 {i}" for i in range(3)]


def test_names_in_a_tar_never_reach_the_disk(tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "evil.tar", "w") as tar:
        for name in ("../../evil", "/etc/evil", "fine"):
            add_to_tar(tar, f"{name}.png", picture(0))
            add_to_tar(tar, f"{name}.txt", b"a caption\n")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    captions, images = everything(tmp_path / "in" / "evil.tar")
    assert [row["text"] for row in captions] == ["a caption"] * 3 + [None]
    assert [row["status"] for row in images] == ["ok"] * 3 + ["failed"]
    assert [item.name for item in tmp_path.rglob("*")] == ["in", "evil.tar"]
    assert "evil" not in str(images[0] | {"image": None})


def test_a_tar_that_ends_early(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(4):
            add_to_tar(tar, f"{i}.png", picture(i, 60, 60))
            add_to_tar(tar, f"{i}.txt", b"x")
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cannot read .*a\.tar as tar"):
        everything(tmp_path / "a.tar")


# Into a store


def test_import_and_verify(tmp_path):
    source = class_folder(tmp_path / "photos", ["a", "b", "c"], 5)
    (source / "a" / "0.PNG").write_bytes(b"broken")
    seen = []
    account = imports.import_into(source, tmp_path / "run", unit_size=4, progress=seen.append)
    assert str(account) == "15 found = 14 taken + 1 failed (not a JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF image)"
    assert account.counts == {
        "captions": 15,
        "dropped captions": 0,
        "images ok": 14,
        "images dropped": 0,
        "images failed": 1,
    }
    assert seen == [4, 8, 12, 15]
    assert tables.verify(tmp_path / "run", per_caption=1) == []
    assert tables.done_units(tmp_path / "run" / "pairs.lance") == {0, 1, 2, 3}
    assert imports.import_into(source, tmp_path / "run", unit_size=4) == account
    assert tables.count(tmp_path / "run" / "pairs.lance") == 15


def test_import_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Stopped at each of its commits in turn; the end is the same as without a stop."""
    source = class_folder(tmp_path / "photos", ["a", "b"], 4)
    imports.import_into(source, tmp_path / "whole", unit_size=3)
    append, stop_after = tables.append_unit, 0

    def stopping(*args):
        nonlocal stop_after
        if stop_after == 0:
            raise KeyboardInterrupt
        stop_after -= 1
        append(*args)

    for stop_after in (0, 1, 2, 1):  # noqa: B007
        with monkeypatch.context() as patch:
            patch.setattr(tables, "append_unit", stopping)
            with pytest.raises(KeyboardInterrupt):
                imports.import_into(source, tmp_path / "run", unit_size=3)
    imports.import_into(source, tmp_path / "run", unit_size=3)
    for name in ("captions.lance", "pairs.lance"):
        for unit in range(3):
            expected = tables.read_unit(tmp_path / "whole" / name, unit)
            assert tables.read_unit(tmp_path / "run" / name, unit).equals(expected)


def test_several_sources_in_one_folder(tmp_path):
    one, two = write(tmp_path / "one.txt", "a\nb\n\n"), class_folder(tmp_path / "photos", number=2)
    folder = tmp_path / "run"
    sources = [(one, None), (two, "photos"), (write(tmp_path / "three.txt", "d\ne\n"), "three")]
    counts = [imports.import_into(source, folder, unit_size=2, name=name) for source, name in sources]
    assert counts[0].counts == {"captions": 3, "dropped captions": 1}
    assert counts[1].counts["images ok"] == 4
    assert tables.done_units(folder / "captions.lance") == {0, 1, 2, 3, 4}
    assert tables.done_units(folder / "pairs.lance") == {2, 3}
    assert tables.verify(folder) == []
    again = [imports.import_into(source, folder, unit_size=2, name=name) for source, name in reversed(sources)]
    assert again == counts[::-1]
    assert tables.count(folder / "captions.lance") == 9
    with pytest.raises(StoreError, match=r"unit 0 of .* 'text' is the name of another source.* give another --name or"):
        imports.import_into(sources[2][0], folder, unit_size=2)
    assert tables.count(folder / "captions.lance") == 9


def test_a_second_source_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Stopped between the pairs of its first unit and their captions; another source comes first."""
    folder, photos = tmp_path / "run", class_folder(tmp_path / "photos", number=2)
    imports.import_into(write(tmp_path / "one.txt", "a\n"), folder)
    append = tables.append_unit

    def stopping(path, *args):
        if path.name == "captions.lance":
            raise KeyboardInterrupt
        append(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "append_unit", stopping)
        with pytest.raises(KeyboardInterrupt):
            imports.import_into(photos, folder)
    imports.import_into(write(tmp_path / "two.txt", "b\n"), folder, name="two")
    imports.import_into(photos, folder)
    units = [tables.read_unit(folder / "captions.lance", unit)["text"].to_pylist() for unit in range(3)]
    assert units == [["a"], ["owl", "owl", "red fox", "red fox"], ["b"]]
    assert tables.done_units(folder / "pairs.lance") == {1}
    assert tables.verify(folder) == []


def test_a_stray_quote_does_not_swallow_the_rows_after_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('caption\n"never closed\na red circle\na blue square\n', encoding="utf-8")
    with pytest.raises(InputError, match="unexpected end of data"):
        texts(path)


def test_one_bad_sample_of_a_tar_is_dropped_and_a_tar_without_captions_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(4):
            add_to_tar(tar, f"{i}.png", picture(i))
            if i in (1, 3):
                add_to_tar(tar, f"{i}.txt", f"text {i}".encode())
        add_to_tar(tar, "4.png", picture(4))
        add_to_tar(tar, "4.json", b"{broken")
    captions, _ = everything(tmp_path / "a.tar")
    assert [row["text"] for row in captions if row["status"] == "ok"] == ["text 1", "text 3"]
    reasons = [row["reason"] for row in captions if row["status"] == "dropped"]
    assert reasons[:2] == ["no column of captions or classes"] * 2
    assert reasons[2].startswith(".json is not JSON: Expecting property name")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        add_to_tar(tar, "0.png", picture(0))
    with pytest.raises(InputError, match="no column of captions"):
        everything(tmp_path / "b.tar")
