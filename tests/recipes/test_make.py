import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reverie.errors import InputError
from reverie.images.tokens import PaintTokens
from reverie.recipes.make import MakeConfig
from reverie.recipes.options import clip_default, clip_for
from reverie.recipes.synth2 import Synth2Config
from reverie.report.page import write
from reverie.run.engine import run
from reverie.run.plan import Plan, call_recipe
from reverie.run.repaint import repaint
from reverie.settings import resolve
from reverie.store import exports, tables
from tests.models import tiny


def make(**flags: Any) -> Plan:
    return call_recipe("make", flags)


def test_without_clip_there_is_no_score() -> None:
    plan = make(painter="owner/painter")
    assert [step.name for step in plan.steps] == ["captions", "paint", "blank", "hash", "duplicates", "keep"]
    plan = make(painter="owner/painter", clip="owner/clip")
    assert plan.steps[2].name == "clip_score"


def test_duplicates_may_stay() -> None:
    plan = make(painter="owner/painter", duplicates=False)
    assert [step.name for step in plan.steps] == ["captions", "paint", "blank", "keep"]
    assert plan.steps[-1].inputs == ("blank",)
    assert plan.steps[-1].stage.rule == "status = 'ok' and blank = false"  # type: ignore[attr-defined]
    plan = make(painter="owner/painter", duplicates=False, keep="width > 100")
    assert plan.steps[-1].stage.rule == "width > 100"  # type: ignore[attr-defined]


def test_batch_is_speed_only(tmp_path: Path) -> None:
    plans = [make(painter="owner/painter", paint_batch=batch).fingerprints() for batch in (1, 64)]
    assert plans[0] == plans[1]


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog\na cat\n")
    (tmp_path / "classes.txt").write_text("dog\n")
    flags = {"painter": "owner/painter"}
    assert make(captions=tmp_path / "captions.txt", **flags).num_captions == 2
    assert make(captions=tmp_path / "captions.txt", limit=1, **flags).num_captions == 1
    templates = make(classes=tmp_path / "classes.txt", per_class=3, **flags)
    assert (templates.num_captions, type(templates.steps[0].stage).__name__) == (3, "FillTemplates")
    asked = make(classes=tmp_path / "classes.txt", writer="owner/writer", per_class=30, **flags)
    assert (asked.num_captions, type(asked.steps[0].stage).__name__) == (30, "AskWriter")
    assert make(per_class=1, **flags).num_captions == 64
    with pytest.raises(InputError, match=r"belongs? to a file"):
        make(text_column="text", **flags)


def test_sentences_of_a_word_to_sentence_model(tmp_path: Path) -> None:
    flags = {"painter": "owner/painter"}
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    (tmp_path / "also.json").write_text('{"dog": ["hound"]}')
    plan = make(
        classes=tmp_path / "classes.txt", words="owner/t5", synonyms=tmp_path / "also.json", per_class=30, **flags
    )
    assert (plan.num_captions, type(plan.steps[0].stage).__name__) == (60, "WordToSentence")
    plan = make(words="builtin:words", around="a photo of {caption}", per_class=2, **flags)
    assert (plan.num_captions, plan.steps[0].stage.context) == (128, "a photo of {caption}")
    with pytest.raises(InputError, match="give --writer or --words, not both"):
        make(words="owner/t5", writer="owner/writer", **flags)
    with pytest.raises(InputError, match="belong to the sentences of --words"):
        make(synonyms=tmp_path / "also.json", **flags)
    with pytest.raises(InputError, match="builtin:words knows the classes of the small world only, not 'cat'"):
        make(classes=tmp_path / "classes.txt", words="builtin:words", **flags)
    with pytest.raises(InputError, match=r"must hold \{caption\} once"):
        make(words="builtin:words", around="a photo", **flags)
    (tmp_path / "also.json").write_text('{"bird": ["hound"]}')
    with pytest.raises(InputError, match=r"unknown class in also.json 'bird'"):
        make(classes=tmp_path / "classes.txt", words="owner/t5", synonyms=tmp_path / "also.json", **flags)


def test_the_builtin_clip_is_for_the_builtin_painter() -> None:
    with pytest.raises(InputError, match="small world only"):
        clip_for("owner/painter", "builtin:clip")
    assert clip_default("owner/painter", "builtin:clip") is None
    assert clip_default("builtin:painter", "builtin:clip") == "builtin:clip"
    with pytest.raises(InputError, match="small world only"):
        make(painter="owner/painter", clip="builtin:clip")


def test_make_with_the_builtin_painter(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red circle\na blue square on a white background\n")
    plan = make(captions=tmp_path / "captions.txt", per_caption=2, sampler_steps=2)
    assert run(plan, tmp_path / "run", part=(1, 1)) is True
    assert tables.verify(tmp_path / "run", per_caption=2) == []
    assert {"clip_score", "blank", "hash", "duplicate_of", "kept"} <= set(
        tables.column_names(tmp_path / "run" / "pairs.lance")
    )


@pytest.mark.parametrize("flag", ["per_class", "unit_size", "per_caption", "sampler_steps", "paint_px", "store_px"])
@pytest.mark.parametrize("number", [0, -8])
def test_a_number_below_its_range_is_told_by_its_flag(flag: str, number: int) -> None:
    with pytest.raises(InputError, match=f"^--{flag.replace('_', '-')} {number}: give 1 or more$"):
        make(**{flag: number})


def test_a_batch_of_zero_is_found_by_trial_and_less_is_none() -> None:
    assert make(paint_batch=0).step("paint").stage.speed.batch == 0
    with pytest.raises(InputError, match=r"^--paint-batch -8: give 0 or more$"):
        make(paint_batch=-8)


@pytest.mark.parametrize("flag", ["paint_px", "store_px"])
def test_pictures_that_could_not_be_read_again_are_not_painted(flag: str) -> None:
    make(**{flag: 8000})
    with pytest.raises(InputError, match="100,000 pixels a side are more than can be read again; give 8,000 or less"):
        make(**{flag: 100_000})


def test_tokens_are_painted_by_their_own_painter_and_looked_at_without_pixels_where_that_can_be() -> None:
    config = resolve(MakeConfig(), {"as_": "tokens"})
    assert (config.paint.painter, config.paint.guidance, config.paint.sampler_steps) == (
        "builtin:token-painter",
        1.5,
        16,
    )
    usual = PaintTokens()
    assert (usual.model, usual.guidance, usual.steps) == ("builtin:token-painter", 1.5, 16)
    synth2 = [
        resolve(Synth2Config(), {"token_painter": name}).paint
        for name in ("builtin:token-painter", "owner/painter", "train")
    ]
    assert [(paint.guidance, paint.sampler_steps) for paint in synth2] == [(1.5, 16), (3.0, 8), (3.0, 8)]
    assert config.keep == "status = 'ok' and duplicate_of is null"
    plan = make(as_="tokens", painter="owner/painter", clip="owner/clip")
    stages = {step.name: step.stage for step in plan.steps}
    assert list(stages) == ["captions", "paint", "clip_score", "hash", "duplicates", "keep"]
    paint: Any = stages["paint"]
    assert (type(paint).__name__, paint.model, paint.guidance, paint.steps) == ("PaintTokens", "owner/painter", 3.0, 8)
    names = [type(stages[name]).__name__ for name in ("clip_score", "hash")]
    assert names == ["Decoded", "TokenHash"]
    assert stages["duplicates"].near is False  # type: ignore[attr-defined]
    assert stages["keep"].rule == "status = 'ok' and duplicate_of is null"  # type: ignore[attr-defined]
    plan = make(as_="tokens", painter="owner/painter", clip=None, duplicates=False, guidance=5.0)
    assert [(step.name, step.inputs) for step in plan.steps[1:]] == [("paint", ("captions",)), ("keep", ("paint",))]
    assert plan.steps[1].stage.guidance == 5.0  # type: ignore[attr-defined]
    for flags in ({"scheduler": "ddim"}, {"store_px": 32}):
        with pytest.raises(InputError, match="is about pixels"):
            make(as_="tokens", painter="owner/painter", **flags)


def test_the_flag_is_called_as(capsys: pytest.CaptureFixture[str]) -> None:
    from reverie.cli.main import main
    from reverie.settings import flag

    with pytest.raises(SystemExit):
        main(["make", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--as {pixels,tokens}" in said
    assert (flag("as_"), flag("paint_px")) == ("--as", "--paint-px")


def test_make_as_tokens_from_captions_to_pictures_and_ids(tmp_path: Path) -> None:
    """Painted, scored, shown, painted again and exported; the store holds ids and no image."""
    tiny.save_amused(tmp_path / "painter")
    tiny.save_clip(tmp_path / "clip")
    (tmp_path / "captions.txt").write_text("a red circle\na blue square\n")
    folder = tmp_path / "run"
    plan = make(
        as_="tokens", painter=str(tmp_path / "painter"), clip=str(tmp_path / "clip"), captions=tmp_path / "captions.txt",
        per_caption=2, sampler_steps=3,
    )  # fmt: skip
    assert run(plan, folder, part=(1, 1)) is True
    assert tables.verify(folder, per_caption=2) == []
    rows = [row for part in tables.scan(folder / "pairs.lance") for row in part.to_pylist()]
    assert [row["image"] for row in rows] == [None] * 4
    assert all(len(row["tokens"]) == 16 and row["clip_score"] is not None and row["kept"] for row in rows)
    assert len({row["pixels"] for row in rows}) == 4
    page = write(folder).read_text()
    assert page.count("data:image/png") == 4
    # Nothing is to be measured, so nothing is missing.
    assert re.search(r"<h1>2 captions and 4 images, \d of them kept to learn from\.</h1>", page)
    for told in ("not complete", "No number yet", "No training yet", "<h2>Result"):
        assert told not in page

    again = repaint(plan, folder, rows[1]["pair_id"])
    assert (again.same, again.by) == (True, "ids")
    image = again.image
    from reverie.models.token_pictures import TokenPictures

    pictures = TokenPictures([str(tmp_path / "clip"), str(tmp_path / "painter")])
    shown = {row["pair_id"]: np.asarray(Image.open(io.BytesIO(pictures.png(row)))) for row in rows}
    assert (np.asarray(Image.open(io.BytesIO(image))) == shown[rows[1]["pair_id"]]).all()

    pairs = folder / "pairs.lance"
    assert exports.to_webdataset(pairs, tmp_path / "pictures", decode=pictures.pngs)["pairs"] == 4
    assert exports.to_webdataset(pairs, tmp_path / "ids", ids=True)["pairs"] == 4
    with tarfile.open(tmp_path / "pictures" / "00000.tar") as tar, tarfile.open(tmp_path / "ids" / "00000.tar") as ids:
        for row in rows:
            picture, numbers = tar.extractfile(f"{row['pair_id']}.png"), ids.extractfile(f"{row['pair_id']}.npy")
            assert picture is not None
            assert numbers is not None
            assert (np.asarray(Image.open(picture)) == shown[row["pair_id"]]).all()
            found = np.load(io.BytesIO(numbers.read()), allow_pickle=False)
            assert (found.dtype, found.tolist()) == (np.int32, np.reshape(row["tokens"], row["grid"]).tolist())
    with pytest.raises(InputError, match="no pair"):
        exports.to_webdataset(pairs, tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot be turned into pictures: give the tokenizer"):
        TokenPictures([str(tmp_path / "clip")]).png(rows[0])
