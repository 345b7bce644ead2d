import dataclasses
import io
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from reverie import pairs, seeds, stage
from reverie.errors import InputError, ModelError, UnknownName
from reverie.images import pixels
from reverie.images.pixels import SCHEDULERS, PaintPixels, PaintSpeed, PaintWorker
from reverie.stage import StepContext
from tests.images import pipelines
from tests.images.fakes import FakePainter

SEED = 42


def captions(*texts, unit=3):
    rows = [
        {"caption_id": f"{unit}-{number}", "unit": unit, "text": text, "label": "class", "status": "ok"}
        for number, text in enumerate(texts)
    ]
    return pairs.table(rows, pairs.CAPTIONS)


def context(tmp_path, events=None):
    def report(kind, **facts):
        if events is not None:
            events.append((kind, facts))

    return StepContext(tmp_path, "paint", seed=SEED, report=report)


def paint(tmp_path, painter, *texts, events=None, **settings):
    return PaintWorker(PaintPixels(**settings), painter, context(tmp_path, events))(captions(*texts)).to_pylist()


def decoded(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)))


def test_each_caption_gets_its_copies_in_order(tmp_path):
    painter = FakePainter()
    table = PaintWorker(PaintPixels(per_caption=3, guidance=2.1), painter, context(tmp_path))(captions("a", "b"))
    assert table.schema == pairs.PAIRS
    rows = table.to_pylist()
    assert [row["pair_id"] for row in rows] == [pairs.pair_id(f"3-{n}", copy) for n in range(2) for copy in range(3)]
    assert [row["seed"] for row in rows] == [seeds.image_seed(SEED, r["caption_id"], r["copy"]) for r in rows]
    assert len({row["image"] for row in rows}) == 6
    for row in rows:
        expected = {"unit": 3, "label": "class", "width": 8, "height": 8, "origin": "painted", "painter": "fake@1"}
        expected |= {"scheduler": "ddim", "steps": 20, "status": "ok", "reason": None, "tokens": None}
        assert expected.items() <= row.items()
        assert row["guidance"] == pytest.approx(2.1)
        assert decoded(row["image"]).shape == (8, 8, 3)
    assert painter.encoded == ["a", "b"], "texts are encoded once a caption, not once a copy"


def test_batches_go_across_captions(tmp_path):
    painter = FakePainter()
    paint(tmp_path, painter, "a", "b", "c", per_caption=3, speed=PaintSpeed(batch=4))
    assert painter.batches == [4, 4, 1]


def test_out_of_memory_halves_the_batch_for_good(tmp_path):
    events = []
    painter, whole = FakePainter(fits=3), FakePainter()
    worker = PaintWorker(PaintPixels(per_caption=4, speed=PaintSpeed(batch=8)), painter, context(tmp_path, events))
    rows = worker(captions("a", "b")).to_pylist()
    assert painter.batches == [8, 4, 2, 2, 2, 2]
    assert [row["image"] for row in rows] == [r["image"] for r in paint(tmp_path, whole, "a", "b", per_caption=4)]
    painter.batches.clear()
    worker(captions("c", unit=4))
    assert painter.batches == [2, 2], "the size that worked is remembered"
    assert [facts["text"] for kind, facts in events if kind == "warning"] == [
        f"out of memory; from here on {size} images are painted at once" for size in (4, 2)
    ]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")],
)
def test_other_ways_to_run_out_of_memory(tmp_path, error):
    class Full(FakePainter):
        def sample(self, embeddings, seeds, *settings):
            if len(seeds) > 1:
                raise error
            return super().sample(embeddings, seeds, *settings)

    painter = Full()
    assert {row["status"] for row in paint(tmp_path, painter, "a", per_caption=3)} == {"ok"}
    assert painter.batches == [1, 1, 1]


def test_no_memory_for_one_image_ends_the_work(tmp_path):
    with pytest.raises(ModelError, match="one image of 8 px does not fit the memory of cpu"):
        paint(tmp_path, FakePainter(fits=0), "a", "b")


def test_blank_images_are_tried_again_and_then_accounted_for(tmp_path):
    first = [seeds.image_seed(SEED, "3-1", copy) for copy in range(2)]
    painter = FakePainter(first_seeds=first[:1])
    rows = paint(tmp_path, painter, "a", "black once", "black", "grey", "nan", "b", per_caption=2)
    by_text = {
        text: [row for row in rows if row["text"] == text] for text in ("a", "black once", "black", "grey", "nan", "b")
    }
    assert {row["status"] for text in ("a", "b", "black once") for row in by_text[text]} == {"ok"}
    again, not_again = by_text["black once"]
    assert again["seed"] == seeds.image_seed(SEED, "3-1", 0, attempt=1)
    assert not_again["seed"] == first[1]
    assert decoded(again["image"]).std() > 0
    for text, status, reason in (
        ("black", "dropped", "black"),
        ("grey", "dropped", "one colour"),
        ("nan", "failed", "not finite"),
    ):
        for row in by_text[text]:
            assert row["status"] == status
            assert reason in row["reason"]
            assert row["seed"] == seeds.image_seed(SEED, row["caption_id"], row["copy"], attempt=1)
            assert (row["image"] is None) == (status == "failed")
    assert painter.batches == [12, 7], "one more round, for the blank ones only"


def test_a_caption_that_breaks_does_not_take_others_with_it(tmp_path):
    rows = paint(tmp_path, FakePainter(), "a", "breaks", "unreadable", None, "  ", "b", per_caption=2)
    alone = paint(tmp_path, FakePainter(), "a", "breaks", "a", None, "  ", "b", per_caption=2)
    assert [row["status"] for row in rows] == ["ok"] * 2 + ["failed"] * 8 + ["ok"] * 2
    assert [row["reason"] for row in rows[2:10:2]] == [
        "RuntimeError: this caption breaks the network",
        "TypeError: no such text",
        "the caption has no text",
        "the caption has no text",
    ]
    assert [row["image"] for row in rows[-2:]] == [row["image"] for row in alone[-2:]]


@pytest.mark.parametrize("text", ["breaks", "unreadable"])
def test_a_painter_that_always_breaks_is_a_bug_to_be_seen(tmp_path, text):
    with pytest.raises((RuntimeError, TypeError), match=r"breaks the network|no such text"):
        paint(tmp_path, FakePainter(), text, text)
    assert [row["status"] for row in paint(tmp_path, FakePainter(), text, per_caption=2)] == ["failed"] * 2


def test_empty_unit(tmp_path):
    assert paint(tmp_path, FakePainter()) == []


def test_unknown_words_are_told_once_and_cuts_are_counted(tmp_path):
    events = []
    worker = PaintWorker(PaintPixels(per_caption=1), FakePainter(), context(tmp_path, events))
    worker(captions("zebra", "a", "long one", "long two"))
    worker(captions("zebra", "zebras", unit=4))
    told = [(kind, facts["words"]) for kind, facts in events if "words" in facts]
    assert told == [("warning", ["zebra"]), ("words", ["zebras"])]
    assert [facts for kind, facts in events if kind == "text_cut"] == [{"unit": 3, "captions": 2, "limit": 77}]


def test_images_compress_while_the_next_batch_is_painted(tmp_path, monkeypatch):
    compressed = threading.Event()
    compress = pixels._encoded

    def watched(*given):
        made = compress(*given)
        compressed.set()
        return made

    class Patient(FakePainter):
        def sample(self, *given):
            if self.batches:
                assert compressed.wait(30), "nothing was compressed before the second batch was done"
            return super().sample(*given)

    monkeypatch.setattr(pixels, "_encoded", watched)
    rows = paint(tmp_path, Patient(), "a", "b", per_caption=1, speed=PaintSpeed(batch=1, encode_threads=1))
    assert [row["status"] for row in rows] == ["ok", "ok"]


def test_formats_and_stored_size(tmp_path):
    def made(**settings):
        return paint(tmp_path, FakePainter(), "a", per_caption=1, size_px=64, **settings)[0]

    png = decoded(made()["image"])
    seed = made()["seed"]
    exact = FakePainter().sample({"prompt": ["a"]}, [seed], 1, 1, 64)[0].permute(1, 2, 0).numpy()
    assert (png == (exact * 255).round()).all()
    for image_format in ("jpeg", "webp"):
        image = made(image_format=image_format)["image"]
        assert Image.open(io.BytesIO(image)).format == image_format.upper()
        assert len(image) > len(made(image_format=image_format, quality=30)["image"])
    small = made(store_px=16)
    assert (small["width"], small["height"], decoded(small["image"]).shape) == (16, 16, (16, 16, 3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance": 0.9},
        {"image_format": "gif"},
        {"quality": 0},
        {"per_caption": 0},
        {"steps": 0},
        {"store_px": 0},
        {"speed": PaintSpeed(batch=-1)},
        {"step_cache": 0},
        {"step_cache": 2, "compiled": True},
        {"speed": PaintSpeed(encode_threads=0)},
    ],
)
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(InputError):
        PaintPixels(**wrong)


def test_speed_is_no_part_of_the_fingerprint():
    fast, other = PaintPixels(speed=PaintSpeed(batch=1)), PaintPixels(guidance=3)
    assert stage.settings(fast) == stage.settings(PaintPixels()) != stage.settings(other)
    assert isinstance(fast, stage.UnitStage)


def test_the_command_line_does_not_wait_for_torch():
    code = "import sys, reverie.images.pixels; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TEXTS = ("a red circle", "two blue square", "a green zebra")


@pytest.fixture(scope="session")
def real(sd_folder):
    """A stage over a real pipeline, small enough for three batches a unit."""
    return PaintPixels(model=sd_folder, per_caption=4, guidance=3.0, steps=3, speed=PaintSpeed(batch=5))


def test_a_real_pipeline_encodes_each_text_once(tmp_path, real):
    worker = real.open(context(tmp_path))
    texts = []
    worker.painter.pipe.text_encoder.register_forward_hook(lambda net, given, made: texts.append(len(made[0])))
    rows = worker(captions(*TEXTS)).to_pylist()
    worker(captions(*TEXTS, unit=4))
    assert sum(texts) == 3 + 1 + 3, "three captions, the empty prompt once a run, three captions"
    assert {row["status"] for row in rows} == {"ok"}
    assert {(row["width"], row["scheduler"]) for row in rows} == {(32, "ddim")}
    assert rows[0]["painter"].startswith("sd@")
    assert len({row["image"] for row in rows}) == 12


def test_the_same_bytes_after_a_restart_and_in_any_part(tmp_path, real):
    first = real.open(context(tmp_path))
    whole = {unit: first(captions(*TEXTS, unit=unit)) for unit in (3, 4)}
    second = real.open(context(tmp_path))
    assert second(captions(*TEXTS, unit=4)) == whole[4]
    assert second(captions(*TEXTS, unit=3)) == whole[3]
    assert whole[3]["image"] != whole[4]["image"]


def test_open_refuses_what_the_model_cannot_do(tmp_path, real):
    with pytest.raises(InputError, match="multiple of 8"):
        dataclasses.replace(real, size_px=20).open(context(tmp_path))
    with pytest.raises(InputError, match="steps"):
        dataclasses.replace(real, steps=2000).open(context(tmp_path))


def test_real_long_captions_are_counted(tmp_path, real):
    events = []
    worker = dataclasses.replace(real, per_caption=1, steps=1).open(context(tmp_path, events))
    worker(captions("red " * 30, "a red circle"))
    assert [row["status"] for row in worker(captions(None, unit=4)).to_pylist()] == ["failed"]
    assert [facts for kind, facts in events if kind == "text_cut"] == [
        {"unit": 3, "captions": 1, "limit": pipelines.LENGTH}
    ]


def test_an_unknown_scheduler_is_told_before_any_caption_is_written():
    from reverie.models.painter import SCHEDULERS as KNOWN

    assert tuple(KNOWN) == SCHEDULERS
    with pytest.raises(UnknownName, match="dpm-solver\\+\\+"):
        PaintPixels(scheduler="dpm-solver")


def test_the_last_images_of_a_unit_are_compressed_while_the_next_unit_is_painted(tmp_path, monkeypatch):
    painted = threading.Event()
    compress = pixels._encoded

    def waiting(*given):
        assert painted.wait(30), "the next unit was not painted before the images of this one were compressed"
        return compress(*given)

    class Telling(FakePainter):
        def sample(self, *given):
            if self.batches:
                painted.set()
            return super().sample(*given)

    monkeypatch.setattr(pixels, "_encoded", waiting)
    worker = PaintWorker(PaintPixels(per_caption=1), Telling(), context(tmp_path))
    finishes = [worker.begin(captions("a", unit=unit)) for unit in (0, 1)]
    assert [finish()["status"].to_pylist() for finish in finishes] == [["ok"], ["ok"]]


def test_a_batch_of_0_is_the_usual_one_on_a_cpu_and_found_by_trial_on_a_gpu(tmp_path):
    paint(tmp_path, painter := FakePainter(), *"abcdefgh", per_caption=4, speed=PaintSpeed(batch=0))
    assert painter.batches == [16, 16]
    events = []
    gpu = dataclasses.replace(context(tmp_path, events), device="cuda")
    worker = PaintWorker(PaintPixels(per_caption=4, speed=PaintSpeed(batch=0)), painter := FakePainter(fits=6), gpu)
    rows = worker(captions(*"abcdefgh"))
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert painter.batches == [1, 4, 8, *[4] * 8]
    assert ("batch", {"images": 4}) in events


def test_the_halves_of_a_decoder_need_a_gpu():
    with pytest.raises(InputError, match=r"--painter-decoder-dtype bf16 needs a GPU"):
        PaintPixels(decoder_dtype="bf16").check_device("cpu")
    with pytest.raises(InputError, match=r"--painter-decoder-dtype fp16 needs a GPU"):
        PaintPixels(decoder_dtype="fp16").check_device("cpu")
