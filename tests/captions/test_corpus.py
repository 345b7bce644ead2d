import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reverie.captions.corpus import FromCorpus, read_texts
from reverie.errors import InputError, UnknownName
from tests.captions.conftest import units_of

TEXTS = ["a red circle", 'she said "hi", twice', "黑猫"]


def write(path, kind):
    if kind == "txt":
        path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    elif kind == "csv":
        path.write_text('id,caption,label\n1,a red circle,x\n2,"she said ""hi"", twice",y\n3,黑猫,\n', encoding="utf-8")
    elif kind == "tsv":
        path.write_text("caption\turl\n" + "".join(f"{text}\thttp://x\n" for text in TEXTS), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"caption": text, "n": 1}) + "\n" for text in TEXTS), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(TEXTS), encoding="utf-8")
    elif kind == "parquet":
        image = pa.array([{"bytes": b"x", "path": "p"}] * 3)
        pq.write_table(pa.table({"caption": TEXTS, "image": image}), path)
    return path


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "json", "parquet"])
def test_every_kind_gives_the_same_texts(tmp_path, kind):
    assert read_texts(write(tmp_path / f"a.{kind}", kind))["text"].to_pylist() == TEXTS


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "json"])
def test_packed_files(tmp_path, kind):
    plain = write(tmp_path / f"a.{kind}", kind)
    packed = tmp_path / f"a.{kind}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_texts(packed)["text"].to_pylist() == TEXTS


def test_coco(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "caption": text} for text in TEXTS],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    assert read_texts(tmp_path / "captions.json")["text"].to_pylist() == TEXTS


def test_table_without_header(tmp_path):
    (tmp_path / "cc.tsv").write_text("a cat\thttp://x\na dog\thttp://y\n")
    assert read_texts(tmp_path / "cc.tsv", "f0", header=False)["text"].to_pylist() == ["a cat", "a dog"]


def test_folder_of_files(tmp_path):
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "notes.pdf").write_text("no")
    assert read_texts(tmp_path)["text"].to_pylist() == ["first", "second"]


def test_numbers_that_look_like_numbers_stay_text(tmp_path):
    (tmp_path / "a.csv").write_text("caption,label\na cat,007\nNA,nan\n")
    assert read_texts(tmp_path / "a.csv", label_column="label").to_pylist() == [
        {"text": "a cat", "label": "007"},
        {"text": "NA", "label": "nan"},
    ]


@pytest.mark.parametrize("unit_size", [1, 2, 10])
def test_bad_texts_are_kept_as_dropped_and_replaced(tmp_path, place, unit_size):
    lines = ["", "a cat", "123", "a dog", "A cat.", "a cow", "http://x.y"]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    stage = FromCorpus(tmp_path / "a.txt")
    assert stage.count == 3
    units = units_of(stage, place, unit_size)
    rows = [row for unit in units for row in unit.to_pylist()]
    assert [(row["text"], row["reason"]) for row in rows] == [
        ("", "empty"),
        ("a cat", None),
        ("123", "no letters"),
        ("a dog", None),
        ("A cat.", "duplicate"),
        ("a cow", None),
        ("http://x.y", "a web address, not a text"),
    ]
    assert len({row["caption_id"] for row in rows}) == len(lines)
    assert all((row["status"] == "ok") == (row["reason"] is None) for row in rows)
    for number, unit in enumerate(units):
        assert set(unit["unit"].to_pylist()) == {number}
    assert "dropping 4 of 7 texts" in place.report[0][1]["text"]


def test_limit_tops_up_and_names_stay(tmp_path, place):
    (tmp_path / "a.txt").write_text("a cat\n\na dog\na cow\n")
    few, all_of = FromCorpus(tmp_path / "a.txt", limit=2), FromCorpus(tmp_path / "a.txt")
    assert few.count == 2
    few_rows, rows = units_of(few, place, 5)[0].to_pylist(), units_of(all_of, place, 5)[0].to_pylist()
    assert few_rows == rows[:3]


def test_duplicates_may_be_kept(tmp_path):
    (tmp_path / "a.txt").write_text("a cat\na cat\n")
    assert FromCorpus(tmp_path / "a.txt", distinct=False).count == 2


def test_labels(tmp_path, place):
    stage = FromCorpus(write(tmp_path / "a.csv", "csv"), label_column="label")
    assert units_of(stage, place, 10)[0]["label"].to_pylist() == ["x", "y", ""]


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a cat\n")
    stage = FromCorpus(path)
    assert stage.count == 1
    path.write_text("a cat\na dog\n")
    assert stage.count == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\n\n", r"no usable caption \(2 empty\)"),
        ("a.txt", b"\xff\xfe cat", "cannot read captions"),
        ("a.csv", b"id,words\n1,a cat\n", "set text_column to one of: id, words"),
        ("a.csv", b"id,caption\n1\n", "cannot read captions"),
        ("a.jsonl", b'{"caption": "a"', "cannot read captions"),
        ("a.jsonl", b'{"caption": 5}\n', "not text"),
        ("a.json", b'{"images": []}', "nor COCO captions"),
        ("a.json", b"[]", "no usable caption .it is empty"),
        ("a.parquet", b"PAR1", "cannot read captions"),
        ("a.docx", b"x", "no known kind"),
        ("a.txt.gz", b"not gzip", "cannot read captions"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        _ = FromCorpus(tmp_path / name).count
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_column(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        _ = FromCorpus(tmp_path / "no.txt").count
    with pytest.raises(UnknownName, match="did you mean caption"):
        read_texts(write(tmp_path / "a.csv", "csv"), "captoin")
