"""Every door out, read back by the tools it is meant for and by our own doors in."""

from __future__ import annotations

import errno
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reverie import pairs
from reverie.errors import FolderInUse, InputError, StoreFull
from reverie.store import exports, imports, tables
from tests.store.conftest import captions_of, pairs_of, picture


@pytest.fixture
def path(run_folder):
    """24 pairs, of which one failed, one is a JPEG, one has odd text; a list and a number are joined to unit 0."""
    path = run_folder / "pairs.lance"
    rows = tables.read_unit(path, 1).to_pylist()
    rows[0] |= {"status": "failed", "reason": "black", "image": None}
    rows[1] |= {"image": picture(77, form="JPEG")}
    rows[2] |= {"text": "\u00e9 <b>\u6211</b>\nand a second line"}
    tables.replace_rows(path, pairs.table(rows[:3], pairs.PAIRS), "pair_id")
    ids = tables.read_unit(path, 0)["pair_id"]
    extra = {
        "unit": [0] * 8,
        "clip_score": pa.array([0.25] * 8, pa.float32()),
        "embedding": pa.array([[1.0, 2.0]] * 8, pa.list_(pa.float32(), 2)),
    }
    tables.append_unit(run_folder / "extra.lance", 0, pa.table({"pair_id": ids, **extra}))
    tables.add_columns(path, run_folder / "extra.lance")
    return path


def stored(path, where="status = 'ok'"):
    return {row["pair_id"]: row for table in tables.scan(path, where=where) for row in table.to_pylist()}


def test_webdataset_reads_the_shards(path, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    seen = []
    counts = exports.to_webdataset(path, tmp_path / "out", per_shard=10, progress=lambda *at: seen.append(at))
    assert counts == {"pairs": 23, "shards": 3}
    assert seen[-1] == (23, 23)
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        "00000.tar": 10,
        "00001.tar": 10,
        "00002.tar": 3,
    }
    expected = stored(path)
    # As open_clip builds it: keys by file name, an image under any of its endings, and the text
    data = (
        webdataset.WebDataset(shards, shardshuffle=False).decode("pilrgb").rename(image="jpg;png;jpeg;webp", text="txt")
    )
    found = {sample["__key__"]: sample for sample in data}
    assert found.keys() == expected.keys()
    for key, sample in found.items():
        row = expected[key]
        assert sample["text"] == row["text"]
        assert sample["image"].tobytes() == Image.open(io.BytesIO(row["image"])).convert("RGB").tobytes()
        assert sample["json"] == {name: value for name, value in row.items() if name != "image"}


def test_equal_pairs_give_equal_shards(path, tmp_path):
    exports.to_webdataset(path, tmp_path / "a")
    other = tmp_path / "other.lance"
    for unit in (2, 1, 0):
        tables.append_unit(other, unit, tables.read_unit(path, unit, pairs.PAIRS.names))
    tables.append_unit(other, 9, pairs_of(captions_of(9, 1)))
    tables.compact(other, keep_s=0)
    exports.to_webdataset(other, tmp_path / "b", where="status = 'ok' and unit < 9", columns=pairs.PAIRS.names)
    exports.to_webdataset(path, tmp_path / "c", columns=pairs.PAIRS.names)
    shards = [(tmp_path / name / "00000.tar").read_bytes() for name in "abc"]
    assert shards[1] == shards[2] != shards[0]
    with tarfile.open(tmp_path / "a" / "00000.tar") as tar:
        names = tar.getnames()
        assert {member.mtime for member in tar.getmembers()} == {0}
    assert [name.split(".")[0] for name in names[::3]] == [name.split(".")[0] for name in names[2::3]]
    assert all(name.count(".") == 1 and "/" not in name for name in names)


def test_datasets_opens_the_parquet(path, tmp_path):
    datasets = pytest.importorskip("datasets")
    assert exports.to_parquet(path, tmp_path / "out", per_file=9) == {"pairs": 23, "files": 3}
    data = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(data.features["image"], datasets.Image)
    assert data.features["clip_score"] == datasets.Value("float32")
    assert data.features["embedding"] == datasets.List(datasets.Value("float32"), length=2)
    expected = stored(path)
    assert set(data["pair_id"]) == expected.keys()
    for row in data:
        there = expected[row["pair_id"]]
        assert row.pop("image").tobytes() == Image.open(io.BytesIO(there["image"])).tobytes()
        assert row == {name: value for name, value in there.items() if name != "image"}


def test_parquet_of_tokens_and_of_chosen_columns(tmp_path):
    rows = [row | {"image": None, "tokens": [1, 2], "grid": [1, 2]} for row in pairs_of(captions_of(0, 2)).to_pylist()]
    tables.append_unit(tmp_path / "p.lance", 0, pairs.table(rows, pairs.PAIRS))
    exports.to_parquet(tmp_path / "p.lance", tmp_path / "out", columns=["tokens"])
    (file,) = (tmp_path / "out" / "data").iterdir()
    assert file.name == "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    assert table.column_names == ["pair_id", "text", "image", "tokens"]
    assert table["tokens"].to_pylist() == [[1, 2]] * 4
    assert table["image"].null_count == 4
    with pytest.raises(InputError, match=r"no pair of .* fits"):
        exports.to_webdataset(tmp_path / "p.lance", tmp_path / "tar")


def test_coco(path, tmp_path):
    assert exports.to_coco(path, tmp_path / "out", where="status = 'ok' and unit = 1") == {"pairs": 7}
    data = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert {item.name for item in (tmp_path / "out").iterdir()} == {"captions.json", "images"}
    assert (
        [note["image_id"] for note in data["annotations"]]
        == [image["id"] for image in data["images"]]
        == list(range(1, 8))
    )
    expected = stored(path, "status = 'ok' and unit = 1")
    for image, note in zip(data["images"], data["annotations"], strict=True):
        row = expected[image["pair_id"]]
        assert note["caption"] == row["text"]
        assert (tmp_path / "out" / "images" / image["file_name"]).read_bytes() == row["image"]
        assert (image["width"], image["height"]) == (24, 16)


def test_folder_of_classes(path, tmp_path):
    assert exports.to_folder(path, tmp_path / "out") == {"pairs": 23, "classes": 2}
    found = {file.stem: (file.parent.name, file.read_bytes()) for file in (tmp_path / "out").glob("*/*")}
    assert found == {key: (row["label"], row["image"]) for key, row in stored(path).items()}
    assert {file.suffix for file in (tmp_path / "out").glob("*/*")} == {".png", ".jpg"}


def test_odd_class_names_stay_in_the_folder(tmp_path):
    names = ["../../evil", "/etc", "..", "a.b", "caf\u00e9 au lait"]
    rows = [row | {"label": name} for row, name in zip(pairs_of(captions_of(0, 5), 1).to_pylist(), names, strict=True)]
    tables.append_unit(tmp_path / "p.lance", 0, pairs.table(rows, pairs.PAIRS))
    exports.to_folder(tmp_path / "p.lance", tmp_path / "x" / "out")
    assert {item.name for item in (tmp_path / "x" / "out").iterdir()} == {
        "______evil",
        "_etc",
        "__",
        "a_b",
        "caf\u00e9 au lait",
    }
    assert {item.name for item in (tmp_path / "x").iterdir()} == {"out"}
    for label, message in (
        ("a_b", "'a.b' and 'a_b' would share|'a_b' and 'a.b' would share"),
        (None, "1 pair of .* has no class"),
    ):
        tables.replace_rows(tmp_path / "p.lance", pairs.table([rows[0] | {"label": label}], pairs.PAIRS), "pair_id")
        with pytest.raises(InputError, match=message):
            exports.to_folder(tmp_path / "p.lance", tmp_path / "again")


@pytest.mark.parametrize("export", [exports.to_webdataset, exports.to_parquet, exports.to_coco, exports.to_folder])
def test_nothing_has_its_name_before_it_is_whole(path, tmp_path, monkeypatch, export):
    out = tmp_path / "out"
    read_unit = tables.read_unit

    def breaking(*args, **options):
        if args[1] == 2:
            assert not out.exists()
            raise OSError(errno.ENOSPC, "No space left on device")
        return read_unit(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "read_unit", breaking)
        with pytest.raises(StoreFull, match="no space left to write"):
            export(path, out)
    assert not out.exists()
    assert not list(tmp_path.glob("out*"))
    export(path, out)
    with pytest.raises(FolderInUse, match="holds something already"):
        export(path, out)
    for where, message in (("kept", "filter .* does not fit"), ("unit = 99", "no pair of .* fits")):
        with pytest.raises(InputError, match=message):
            export(path, tmp_path / "other" / "new", where)
    assert not (tmp_path / "other").exists()


def test_what_goes_out_comes_in_again(path, tmp_path):
    pytest.importorskip("datasets")
    expected = sorted((row["text"], row["label"], row["image"]) for row in stored(path).values())
    exports.to_webdataset(path, tmp_path / "tar", per_shard=7)
    exports.to_parquet(path, tmp_path / "parquet", per_file=7)
    for name in ("tar", "parquet"):
        rows = [row for unit in imports.read(tmp_path / name) for row in unit.pairs.to_pylist()]
        assert sorted((row["text"], row["label"], row["image"]) for row in rows) == expected
    exports.to_coco(path, tmp_path / "coco")
    (unit,) = imports.read(tmp_path / "coco" / "captions.json", images=tmp_path / "coco" / "images")
    assert sorted((row["text"], row["image"]) for row in unit.pairs.to_pylist()) == sorted(
        (t, i) for t, _, i in expected
    )
    exports.to_folder(path, tmp_path / "classes")
    (unit,) = imports.read(tmp_path / "classes")
    assert sorted((row["label"], row["image"]) for row in unit.pairs.to_pylist()) == sorted(
        (c, i) for _, c, i in expected
    )


def test_unknown_columns_are_named(path, tmp_path):
    with pytest.raises(InputError, match="has no column clip_scor; it has pair_id"):
        exports.to_parquet(path, tmp_path / "out", columns=["clip_scor"])


@pytest.mark.parametrize("export", [exports.to_webdataset, exports.to_parquet, exports.to_coco, exports.to_folder])
def test_a_place_that_cannot_be_written_is_one_line(path, tmp_path, export):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"^cannot write to .*file/out: Not a directory; give another folder$"):
        export(path, tmp_path / "file" / "out")
    with pytest.raises(FolderInUse, match="holds something already"):
        export(path, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
