"""Image tokens at the command line: made beside pictures, exported as what they show or as ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverie import pairs
from reverie.cli.main import main
from reverie.models.tokenizer import open_tokenizer
from reverie.store import tables
from tests.models import tiny


def ask(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def test_photos_become_tokens_and_tokens_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vq = tiny.save_vq(tmp_path / "vq")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    for number, picture in enumerate(noise):
        Image.fromarray(picture).save(tmp_path / "photos" / "cat" / f"{number}.png")
    assert ask("import", tmp_path / "photos", "--out", tmp_path / "real") == 0
    assert ask("tokenize", tmp_path / "real", "--tokenizer", vq, "--device", "cpu") == 0
    assert "3 pictures have image tokens" in capsys.readouterr().out
    tokenizer = open_tokenizer(str(vq))
    rows = [row for part in tables.scan(tmp_path / "real" / "pairs.lance") for row in part.to_pylist()]
    found = {row["pair_id"]: np.reshape(row["tokens"], row["grid"]) for row in rows}
    assert sorted(map(np.ndarray.tolist, found.values())) == sorted(tokenizer.ids(noise).tolist())

    assert ask("export", tmp_path / "real", "--to", "folder", "--out", tmp_path / "ids", "--tokens", "ids") == 0
    for name, ids in found.items():
        assert np.load(tmp_path / "ids" / "cat" / f"{name}.npy", allow_pickle=False).tolist() == ids.tolist()
    # The same as tokens alone, in a folder that does not know what they are of.
    alone = pairs.table([{**{k: row[k] for k in pairs.PAIRS.names}, "image": None} for row in rows], pairs.PAIRS)
    tables.append_unit(tmp_path / "alone" / "pairs.lance", 0, alone)
    export = ("export", tmp_path / "alone", "--to", "folder", "--out")
    assert ask(*export, tmp_path / "none") == 2
    assert "give the tokenizer that they are of, --tokenizer NAME" in capsys.readouterr().err
    assert ask(*export, tmp_path / "shown", "--tokenizer", vq) == 0
    for name, ids in found.items():
        shown = np.asarray(Image.open(tmp_path / "shown" / "cat" / f"{name}.png"))
        assert (shown == tokenizer.pictures(ids[None])[0]).all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--to", "coco", "--tokens", "ids"), "has no place for ids"),
        (("--to", "folder", "--tokens", "ids", "--tokenizer", "x"), "leave one of them out"),
        (("--to", "folder", "--tokenizer", "x"), "leave --tokenizer out"),
        (("--to", "folder", "--tokens", "ids"), "has image tokens; make them with: reverie tokenize"),
    ],
)
def test_flags_that_say_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    row = {"pair_id": "a-000", "caption_id": "a", "copy": 0, "unit": 0, "status": "ok", "label": "cat", "image": b"x"}
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table([row], pairs.PAIRS))
    assert ask("export", tmp_path, "--out", tmp_path / "out", *flags) == 2
    assert said in capsys.readouterr().err
