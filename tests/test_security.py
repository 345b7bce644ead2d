"""What SECURITY.md promises of files from strangers and no other test holds: bombs, and names that lead elsewhere."""

import gzip
import io
import json
import tarfile
import zipfile

import pytest

from reverie.builtin import pieces
from reverie.captions.classes import read_classes
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.store import sources, tables
from tests.store.conftest import picture
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
