"""What SECURITY.md promises of files from strangers and no other test holds: bombs, and names that lead elsewhere."""

import bz2
import gzip
import io
import json
import os
import subprocess
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reverie.builtin import pieces
from reverie.captions.classes import read_classes
from reverie.cli.main import main
from reverie.errors import InputError, ModelError
from reverie.models.names import locate
from reverie.models.writer import open_writer
from reverie.run.events import Events
from reverie.run.plan import plan_again
from reverie.show.gallery import Gallery
from reverie.store import imports, sources, tables
from reverie.store.imports import parquet, webdataset
from tests.models import tiny
from tests.report.conftest import make_plan
from tests.store.conftest import captions_of, pairs_of, picture
from tests.writes import stay_inside


def test_a_list_that_swells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_UNPACKED", 1 << 20)
    bomb = tmp_path / "classes.txt.gz"
    bomb.write_bytes(gzip.compress(b"a" * (4 << 20)))
    with pytest.raises(InputError, match=r"holds more than 1,048,576 bytes once unpacked"):
        read_classes(bomb)
    honest = tmp_path / "honest.txt.gz"
    honest.write_bytes(gzip.compress("".join(f"class {i}\n" for i in range(100_000)).encode()))  # 1.3 MB of it
    assert len(read_classes(honest)) == 100_000


def test_a_line_without_end_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "MAX_UNPACKED", 1 << 20)
    bomb = tmp_path / "captions.jsonl.gz"
    bomb.write_bytes(gzip.compress(b'{"caption": "' + b"a" * (4 << 20)))
    with pytest.raises(SystemExit) as stop:
        main(["import", str(bomb), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip() == f"reverie: {bomb} holds a line of more than 1,048,576 bytes"
    bomb.write_bytes(
        gzip.compress(b'\xff{"caption": "' + b"a" * (4 << 20))
    )  # nor read to its end to say where it is wrong
    with pytest.raises(InputError, match=r"not UTF-8 text: .* at byte 0"), sources.opened_text(bomb) as file:
        file.read(1)
    many = tmp_path / "many.jsonl.gz"
    many.write_bytes(
        gzip.compress(b"".join(json.dumps({"caption": f"thing {i}"}).encode() + b"\n" for i in range(60_000)))
    )
    with sources.opened_text(many) as file:
        assert sum(1 for _ in file) == 60_000  # more bytes than a line may have


def test_members_that_lead_out_of_a_tar_write_nothing_there(tmp_path, capsys):
    """A member is read and never written under its name; links are not followed."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(1, 8, 8))
    inside = tmp_path / "inside"
    inside.mkdir()
    shard = inside / "a.tar"
    with tarfile.open(shard, "w") as tar:
        for stem in ("../../up", "/root", "a/../../b"):
            for ending, data in (("png", picture(0, 8, 8)), ("txt", b"a cat")):
                member = tarfile.TarInfo(f"{stem}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("z.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        text = tarfile.TarInfo("z.txt")
        text.size = 5
        tar.addfile(text, io.BytesIO(b"a dog"))
    with stay_inside(inside), pytest.raises(SystemExit) as stop:
        main(["import", str(shard), "--out", str(inside / "out")])
    assert not stop.value.code
    assert "1 failed" in capsys.readouterr().out
    rows = [row for part in tables.scan(inside / "out" / "pairs.lance") for row in part.to_pylist()]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert "link" in rows[3]["reason"]


@pytest.mark.parametrize("name", ["../out.bin", "/tmp/out.bin", "a/../../out.bin", "..\\out.bin"])
def test_pieces_of_models_stay_in_their_folder(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "painter.zip.0", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(InputError, match="leads out of its folder; nothing was unpacked"):
        pieces.unpack(tmp_path, tmp_path / "models")
    assert [item.name for item in tmp_path.iterdir()] == ["painter.zip.0"]


def test_a_swollen_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "MAX_MODEL", 1 << 20)
    with zipfile.ZipFile(tmp_path / "painter.zip.0", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", bytes(2 << 20))
    with pytest.raises(InputError, match="holds more than 1 MiB; nothing was unpacked"):
        pieces.unpack(tmp_path, tmp_path / "models")


@pytest.mark.parametrize("name", ["...zip.0", ".zip.0", "a b.zip.0"])
def test_a_piece_of_a_model_by_another_name(name, tmp_path):
    """Its name is that of the folder it is unpacked to."""
    (tmp_path / "pieces").mkdir()
    with zipfile.ZipFile(tmp_path / "pieces" / name, "w") as archive:
        archive.writestr("out.bin", b"x")
    with stay_inside(tmp_path / "models"), pytest.raises(InputError, match="no piece of a model by its name"):
        pieces.unpack(tmp_path / "pieces", tmp_path / "models")


# Archives and tables that swell


def header(name, size, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def refused(path, match):
    with pytest.raises(InputError, match=match):
        list(imports.entries(path, imports.guess_kind(path)))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_name_without_end_in_a_tar_is_refused(kind, tmp_path):
    """``tarfile`` reads it as a whole, before anything of the member is known."""
    bomb = tmp_path / "a.tar"
    bomb.write_bytes(header("././@LongLink", 2 << 20, kind) + b"a" * (2 << 20) + header("a.txt", 0) + bytes(1024))
    refused(bomb, "impossible length of a name")


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_a_tar_that_swells_is_refused(ending, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_UNPACKED", 1 << 20)
    bomb = tmp_path / f"a.tar.{ending}"
    bomb.write_bytes(pack(header("a.jpg", 4 << 20) + bytes(4 << 20) + header("a.txt", 0) + bytes(1024)))
    refused(bomb, "holds more than 1,048,576 bytes once unpacked")


def test_a_packed_tar_is_unpacked_a_piece_at_a_time(tmp_path):
    """A kilobyte of bzip2 may hold gigabytes; ``tarfile`` by itself would hold all of them at once."""
    shard = tmp_path / "a.tar.bz2"
    shard.write_bytes(bz2.compress(header("a.txt", 32 << 20) + bytes(32 << 20) + bytes(1024)))
    with webdataset._unpacked(shard) as file:
        assert isinstance(file, bz2.BZ2File)
        assert len(file.read(1000)) == 1000


def test_a_sparse_member_is_not_read(tmp_path):
    """It is large and takes no room: hundreds of them would fill the memory."""
    (tmp_path / "a.jpg").touch()
    os.truncate(tmp_path / "a.jpg", 1 << 24)
    (tmp_path / "a.txt").write_text("a cat")
    command = ["tar", "--sparse", "--format=gnu", "-cf", "a.tar", "a.jpg", "a.txt"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 16
    (sample,) = imports.samples(tmp_path / "a.tar", "webdataset")
    assert sample.image is None
    assert "a sparse file" in sample.problem


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.string())])
@pytest.mark.parametrize("long", [1 << 16, parquet.LARGE + 1])
def test_a_table_that_swells_is_refused(long, kind, tmp_path, monkeypatch):
    """A value that all rows share stands in the file once."""
    monkeypatch.setattr(sources, "MAX_UNPACKED", 4 << 20)
    text = "a" * long
    rows = pa.array([[text] if pa.types.is_list(kind) else text] * (100 if long < parquet.LARGE else 5), kind)
    pq.write_table(pa.table({"caption": rows}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 4 << 10
    refused(tmp_path / "a.parquet", "holds more than 4,194,304 bytes once unpacked")


@pytest.mark.parametrize(
    "where", ["length(lpad(text, 2000000000)) > 0", "length(`Repeat` (text, 9)) > 0", "range(9) = 1"]
)
def test_a_filter_that_swells_is_refused(where):
    with pytest.raises(InputError, match="may fill the memory"):
        tables.check_filter(where)
    tables.check_filter("text != 'repeat(' and text = 'range (1)'")


# Run folders of strangers


def run_folder(folder):
    folder.mkdir()
    captions = captions_of(0, 2)
    tables.append_unit(folder / "captions.lance", 0, captions)
    tables.append_unit(folder / "pairs.lance", 0, pairs_of(captions))
    return folder


@pytest.mark.parametrize("place", ["show", "show/bad.jsonl"])
def test_a_mark_follows_no_link(place, tmp_path):
    folder, outside = run_folder(tmp_path / "run"), tmp_path / "outside"
    if place == "show":
        outside.mkdir()
    else:
        (folder / "show").mkdir()
        outside.write_text("alias ls=ls\n")
    (folder / place).symlink_to(outside)
    gallery = Gallery(folder) if place == "show" else None
    if gallery is None:  # a log that is none is refused before
        outside.write_text("")
        gallery = Gallery(folder)
    name = next(iter(tables.scan(folder / "pairs.lance", ["pair_id"])))["pair_id"][0].as_py()
    with pytest.raises(InputError, match="is a link"):
        gallery.marks.set(name, True)
    with pytest.raises(InputError, match="is a link"):
        gallery.near.build() if place == "show" else gallery.marks.set(name, False)
    gallery.close()
    assert not (list(outside.iterdir()) if outside.is_dir() else outside.read_text())


def test_a_log_follows_no_link(tmp_path):
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="is a link"):
        Events(tmp_path)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "named", ["evil.py", "{folder}/evil.py", "/proc/self/cwd/evil.py", "{folder}/../evil.py", "~/evil.py"]
)
def test_a_recipe_that_came_with_a_folder_is_not_run(named, tmp_path, monkeypatch):
    """Whoever wrote a folder decides what is made in it, and not what code is run here."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w').close()")
    make_plan().settle(folder)
    record = json.loads((folder / "plan.json").read_text())
    name = named.format(folder=folder)
    for known in ({**record, "file": name}, {**record, "file": None, "recipe": name}):
        (folder / "plan.json").write_text(json.dumps(known))
        with pytest.raises(InputError, match="code that may have come with the folder"):
            plan_again(folder)
    assert not (tmp_path / "pwned").exists()


def test_a_saved_dataset_names_files_of_its_folder(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    for name in ("../pipe", str(tmp_path / "pipe"), ".."):
        (tmp_path / "d" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        refused(tmp_path / "d", "leads out of its folder")


# Models of strangers


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_model_names_no_code_on_the_hub(key, tmp_path):
    """Where the package ``kernels`` is installed, transformers fetches what its config names so, and runs it."""
    folder = tiny.save_clip(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"][key] = "kernels-community/flash-attn2"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="wants to run code of its own"):
        locate(str(folder))
    config["vision_config"][key] = "sdpa"
    (folder / "config.json").write_text(json.dumps(config))
    assert locate(str(folder))


def test_a_model_names_no_other_model(tmp_path):
    folder = tiny.save_clip(tmp_path / "m")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
    with pytest.raises(ModelError, match="holds an adapter"):
        locate(str(folder))


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch pwned') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(messages) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_chat_template_is_no_program(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tiny.save_writer(tmp_path / "m", template)
    with pytest.raises(ModelError, match=r"SecurityError|no loader"):
        open_writer(str(folder)).write(["cat"], [1], 6, 1.0, 0.9)
    assert not (tmp_path / "pwned").exists()


# Terminals

STEERING = "\x1b]0;pwned\x07 \x9b31m \r\u202egnp"


def test_what_is_printed_does_not_steer_the_terminal(tmp_path, capsys):
    """Names of files, words of captions, what models said: none of it is a command to the terminal, in an error or elsewhere."""
    with pytest.raises(SystemExit):
        main(["import", f"{STEERING}.jpg", "--out", str(tmp_path / "out")])
    source = tmp_path / "a"
    source.mkdir()
    (source / "cat").mkdir()
    (source / "cat" / "0.png").write_bytes(picture(0, 8, 8))
    (source / "cat" / f"0.{STEERING}").write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["import", str(source), "--out", str(tmp_path / "out")])
    with Events(tmp_path) as events:
        events.say(f"warning: {STEERING}")
    said = "".join(capsys.readouterr())
    assert said.count("\\u001b]0;pwned\\u0007") == 3
    assert not set(STEERING) & {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(said)
