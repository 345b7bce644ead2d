import gzip
import json

import pytest

from reverie.captions.corpus import ReadCorpus
from reverie.errors import InputError
from tests.captions.conftest import asked, units_of


def texts_of(stage, context):
    return [text for unit in units_of(stage, context, 10) for text in unit["text"].to_pylist()]


TEXTS = ["a red circle", 'she said "hi", twice', "黑猫"]
CSV = 'id,caption,label\n1,a red circle,x\n2,"she said ""hi"", twice",y\n3,黑猫,\n'
JSONL = "".join(json.dumps({"caption": text, "n": 1}) + "\n" for text in TEXTS)


@pytest.mark.parametrize(("name", "content"), [("a.txt", "\n".join(TEXTS)), ("a.csv", CSV), ("a.jsonl", JSONL)])
def test_every_kind_gives_the_same_texts_also_packed(tmp_path, context, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert texts_of(ReadCorpus(tmp_path / name), context) == TEXTS
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert texts_of(ReadCorpus(tmp_path / f"{name}.gz"), context) == TEXTS


def test_coco(tmp_path, context):
    notes = [{"id": number, "image_id": 1, "caption": text} for number, text in enumerate(TEXTS)]
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": notes}
    (tmp_path / "captions.json").write_text(json.dumps(content))
    assert texts_of(ReadCorpus(tmp_path / "captions.json"), context) == TEXTS


@pytest.mark.parametrize("unit_size", [1, 2, 10])
def test_bad_texts_are_kept_as_dropped_and_replaced(tmp_path, context, unit_size):
    lines = ["", "a cat", "123", "a dog", "A cat.", "a cow", "http://x.y"]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    stage = ReadCorpus(tmp_path / "a.txt")
    assert stage.count == 3
    units = units_of(stage, context, unit_size)
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
    assert "dropping 4 of 7 texts" in context.report[0][1]["text"]


def test_limit_tops_up_and_names_stay(tmp_path, context):
    (tmp_path / "a.txt").write_text("a cat\n\na dog\na cow\n")
    few, all_of = ReadCorpus(tmp_path / "a.txt", limit=2), ReadCorpus(tmp_path / "a.txt")
    assert few.count == 2
    few_rows, rows = units_of(few, context, 5)[0].to_pylist(), units_of(all_of, context, 5)[0].to_pylist()
    assert few_rows == rows[:3]


def test_duplicates_may_be_kept(tmp_path):
    (tmp_path / "a.txt").write_text("a cat\na cat\n")
    assert ReadCorpus(tmp_path / "a.txt", distinct=False).count == 2


def test_labels(tmp_path, context):
    (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
    assert units_of(ReadCorpus(tmp_path / "a.csv"), context, 10)[0]["label"].to_pylist() == ["x", "y", None]
    (tmp_path / "b.csv").write_text("caption,kind\na cat,007\n")
    stage = ReadCorpus(tmp_path / "b.csv", label_column="kind")
    assert units_of(stage, context, 10)[0]["label"].to_pylist() == ["007"]


def test_table_without_header(tmp_path, context):
    (tmp_path / "cc.tsv").write_text("a cat\thttp://x\na dog\thttp://y\n")
    assert texts_of(ReadCorpus(tmp_path / "cc.tsv", text_column="0"), context) == ["a cat", "a dog"]


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a cat\n")
    stage = ReadCorpus(path)
    assert stage.count == 1
    path.write_text("a cat\na dog\n")
    assert stage.count == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\n\n", r"no usable caption \(2 empty\)"),
        ("a.txt", b"\xff\xfe cat", "not UTF-8"),
        ("a.csv", b"id,words\n1,a cat\n", "no column of captions"),
        ("a.csv", b"id,caption\n", "no usable caption .it is empty"),
        ("a.jsonl", b'{"caption": "a"', "not JSON"),
        ("a.json", b'{"images": 1}', "not a COCO caption file"),
        ("a.parquet", b"PAR1", "cannot read"),
        ("a.docx", b"x", "cannot tell what"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        _ = ReadCorpus(tmp_path / name).count
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_column(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        _ = ReadCorpus(tmp_path / "no.txt").count
    (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
    with pytest.raises(InputError, match="no column 'captoin'; give as --text-column one of id, caption, label"):
        _ = ReadCorpus(tmp_path / "a.csv", "captoin").count


def test_more_than_one_portion(tmp_path, context):
    (tmp_path / "a.txt").write_text("".join(f"cat {number}\n" if number % 3 else "\n" for number in range(20_500)))
    stage = ReadCorpus(tmp_path / "a.txt")
    worker = stage.open(context)
    assert stage.count == 20_500 - 6_834
    last = worker(asked(9, stage.count - 2, stage.count)).to_pylist()
    assert [row["text"] for row in last] == ["", "cat 20497", "cat 20498", ""]


def test_a_limit_does_not_read_on(tmp_path):
    (tmp_path / "a.jsonl").write_text(JSONL * 10_000 + "{")  # the end is broken, and never reached
    assert ReadCorpus(tmp_path / "a.jsonl", limit=2).count == 2


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing(tmp_path, limit):
    with pytest.raises(InputError, match=f"^a limit of {limit} captions leaves none; give 1 or more"):
        ReadCorpus(tmp_path / "a.txt", limit=limit)


def test_rows_that_cannot_be_read_are_dropped_with_their_reason(tmp_path, context):
    (tmp_path / "a.csv").write_text("id,caption\n1,a cat\n\n2\n3,a dog,too much\n4,a cow\n")
    (rows,) = units_of(ReadCorpus(tmp_path / "a.csv"), context, 10)
    assert [(row["text"], row["reason"]) for row in rows.to_pylist()] == [
        ("a cat", None),
        ("", "fewer fields than the first row"),
        ("", "more fields than the first row"),
        ("a cow", None),
    ]
    assert "1 fewer fields than the first row, 1 more" in context.report[0][1]["text"]


def test_a_source_of_unknown_kind_names_no_flag_that_is_not_there(tmp_path):
    (tmp_path / "captions").write_text("a cat\n")
    with pytest.raises(
        InputError,
        match=r"captions is from its name; give a kind: folder.*; here is no --kind, so import it with reverie import first",
    ):
        _ = ReadCorpus(tmp_path / "captions").count
