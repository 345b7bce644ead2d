"""Images that begin at real shots: which shot, at which noise level, and what the rows say of it."""

import dataclasses
import io
import math
from collections import Counter

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from reverie import pairs, seeds, stage
from reverie.datasets.few_shot import TakeShots
from reverie.errors import InputError, UnknownName
from reverie.images.pixels import PaintPixels, PaintSpeed
from reverie.images.real_guidance import LEVELS, FromShots, Guide, level_for, published_steps, steps_for
from reverie.models.noise_levels import start_at
from reverie.stage import StepContext
from reverie.store import tables
from tests.datasets.test_few_shot import every, picture, write

SEED = 42
CLASSES = ("cat", "dog")
SHOTS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder whose step ``shots-0`` took four shots of two classes; they are wider than high."""
    root = tmp_path_factory.mktemp("guided")
    images = [picture(number, size=(60, 40)) for number in range(12)]
    source = write(root / "photos", images, [CLASSES[number % 2] for number in range(12)])
    TakeShots(CLASSES, source, SHOTS).run(StepContext(root / "run", "shots-0"))
    return root / "run"


def context(folder, retry=0):
    return StepContext(folder, "paint", ("shots-0",), SEED, retry=retry)


def captions(*labels, unit=0):
    rows = [
        {"caption_id": f"{unit}-{number}", "unit": unit, "text": "a red circle", "label": label, "status": "ok"}
        for number, label in enumerate(labels)
    ]
    return pairs.table(rows, pairs.CAPTIONS)


@pytest.fixture
def guided(sd_folder):
    return PaintPixels(
        sd_folder, 4, guidance=2.0, steps=6, starts=(FromShots("shots-0", SHOTS, steps=2),), speed=PaintSpeed(batch=3)
    )


def shots_of(folder, label):
    return [
        row["pair_id"] for row in every(tables.scan(folder / "shots/shots-0/pairs.lance", where=f"label = '{label}'"))
    ]


def test_levels_are_those_of_the_table_and_between_them_follow_the_logarithm():
    assert {shots: level_for(shots) for shots in LEVELS} == LEVELS
    assert level_for(3) == pytest.approx(0.809 + (math.log2(3) - 1) * (0.853 - 0.809))
    between = [level_for(shots) for shots in range(1, 17)]
    assert between == sorted(between)
    assert (level_for(100), level_for(17)) == (LEVELS[16], LEVELS[16])
    # sqrt(abar) of GLIDE's cosine schedule at steps 50, 40, 35, 20 and 15 of 100: the last that is noised is one before
    cosine = np.cumprod([1 - min(1 - abar((t + 1) / 1000) / abar(t / 1000), 0.999) for t in range(1000)])
    for shots, t in {1: 494, 2: 394, 4: 343, 8: 192, 16: 141}.items():
        assert math.sqrt(cosine[t]) == pytest.approx(LEVELS[shots], abs=2e-3)


def test_from_a_shot_there_are_as_many_steps_as_published_and_the_rest_of_the_noise_is_theirs():
    """On Stable Diffusion's own schedule, of which they were a small share: 18, 13, 11, 5 and 3 of 50."""
    published = {1: 50, 2: 40, 4: 35, 8: 20, 16: 15}
    assert {shots: published_steps(level) for shots, level in LEVELS.items()} == published
    assert [published_steps(level) for level in (0.0, 1.0)] == [100, 1]
    assert [published_steps(level / 50) for level in range(51)] == sorted(
        [published_steps(level / 50) for level in range(51)], reverse=True
    )
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    ddim = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **noise)
    firsts = [int((ddim.alphas_cumprod - level**2).abs().argmin()) for level in LEVELS.values()]
    assert [round(50 * (first + 1) / 1000) for first in firsts] == [18, 13, 11, 5, 3]
    for kind, off in (("DDIMScheduler", 2), ("DPMSolverMultistepScheduler", 0)):
        scheduler = getattr(diffusers, kind).from_config(ddim.config)
        for shots, steps in published.items():
            start = start_at(scheduler, LEVELS[shots], steps_for("published", LEVELS[shots], 50))
            start.scheduler.set_timesteps(start.steps)
            times = [float(time) for time in start.scheduler.timesteps]
            assert len(times) == start.steps
            assert abs(len(times) - steps) <= off, "DDIM takes whole strides of timesteps"
            assert float(ddim.alphas_cumprod[round(times[0])]) ** 0.5 == pytest.approx(LEVELS[shots], abs=2e-3)
            gaps = -np.diff(times)
            assert times[-1] <= gaps.max(), "down to the picture"
            assert gaps.max() - gaps.min() <= 1, "evenly"
    assert steps_for(7, 0.5, 50) == 7
    assert [steps_for("share", LEVELS[shots], 20) for shots in published] == [10, 8, 7, 4, 3]


def abar(time):
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


def test_every_shot_begins_as_many_images_and_rows_say_which(folder, guided):
    rows = guided.open(context(folder))(captions("cat", "dog", "cat")).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    for number, label in enumerate(("cat", "dog", "cat")):
        own = [row for row in rows if row["caption_id"] == f"0-{number}"]
        names = [row["start"].split()[0] for row in own]
        assert sorted(names) == sorted(shots_of(folder, label)), "four images, four shots, one each"
        first = seeds.derive("shot", f"0-{number}") % SHOTS
        assert names == [shots_of(folder, label)[(first + turn) % SHOTS] for turn in range(4)]
    share = float(rows[0]["start"].split()[-1])
    assert share**2 == pytest.approx(LEVELS[SHOTS] ** 2, abs=1e-3)
    assert rows[0]["start"].split()[1] == "sqrt(abar)"
    assert {row["steps"] for row in rows} == {2}, "of denoising from there, whatever an image from noise takes"
    assert {row["origin"] for row in rows} == {"painted"}
    assert [row["seed"] for row in rows] == [seeds.image_seed(SEED, r["caption_id"], r["copy"]) for r in rows]


def test_an_image_shows_its_shot_the_more_the_higher_the_level(folder, sd_folder):
    """Level 1 gives back the autoencoder's reconstruction of the middle of the shot, shorter side resized."""

    def far(level):
        start = FromShots("shots-0", 1, level=level, steps="share")
        stage = PaintPixels(sd_folder, 1, guidance=1.0, steps=6, starts=(start,))
        worker = stage.open(context(folder))
        (row,) = worker(captions("cat")).to_pylist()
        shot = next(row for row in every(tables.scan(folder / "shots/shots-0/pairs.lance")) if row["label"] == "cat")
        assert row["start"].startswith(shot["pair_id"])
        middle = Image.open(io.BytesIO(shot["image"])).resize((32, 32), Image.Resampling.BICUBIC, (10, 0, 50, 40))
        vae = worker.painter.pipe.vae
        with torch.no_grad():
            latent = vae.encode(
                torch.from_numpy(np.asarray(middle)).permute(2, 0, 1)[None] / 127.5 - 1
            ).latent_dist.mean
            known = (vae.decode(latent).sample[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
        return float(np.abs(np.asarray(Image.open(io.BytesIO(row["image"]))) / 255 - known).mean())

    near, middle, away = far(1.0), far(0.8), far(0.1)
    assert near < 0.05  # an untrained network takes no noise away
    assert near < middle < away


def test_starts_share_the_copies_of_a_caption_in_blocks(folder, guided):
    starts = (None, FromShots("shots-0", 1, steps="share"), FromShots("shots-0", level=0.9, steps=7))
    both = dataclasses.replace(guided, per_caption=6, starts=starts)
    rows = both.open(context(folder))(captions("cat", "dog")).to_pylist()
    assert [row["pair_id"] for row in rows] == [pairs.pair_id(f"0-{n}", copy) for n in range(2) for copy in range(6)]
    for row in rows:
        if row["copy"] < 2:
            assert (row["start"], row["steps"]) == (None, 6)
        elif row["copy"] < 4:
            assert row["start"].startswith(shots_of(folder, row["label"])[0])
            assert row["steps"] == 3, "half of six, as half of a hundred are published"
        else:
            assert row["steps"] == 7, "a start may ask for more steps than an image from noise takes"
    plain = dataclasses.replace(guided, per_caption=2, starts=(None,))
    alone = plain.open(context(folder))(captions("cat", "dog")).to_pylist()
    by_id = {row["pair_id"]: row for row in rows}
    for row in alone:
        assert by_id[row["pair_id"]]["seed"] == row["seed"]
        close = np.asarray(Image.open(io.BytesIO(row["image"]))).astype(int)
        assert np.abs(close - np.asarray(Image.open(io.BytesIO(by_id[row["pair_id"]]["image"])))).max() <= 2


def test_the_same_bytes_after_a_restart_and_one_alone_shows_the_same(folder, guided):
    whole = guided.open(context(folder))(captions("cat", "dog"))
    assert guided.open(context(folder))(captions("cat", "dog")) == whole
    alone = guided.open(context(folder))(captions("cat", "dog").slice(1)).to_pylist()
    for row, same in zip(alone, whole.to_pylist()[4:], strict=True):
        assert (row["pair_id"], row["start"], row["seed"]) == (same["pair_id"], same["start"], same["seed"])
        first, second = (np.asarray(Image.open(io.BytesIO(r["image"]))).astype(int) for r in (row, same))
        assert np.abs(first - second).max() <= 2
    again = guided.open(context(folder, retry=1))(captions("cat", "dog")).to_pylist()
    assert [row["start"] for row in again] == [row["start"] for row in whole.to_pylist()]
    assert not {row["seed"] for row in again} & {row["seed"] for row in whole.to_pylist()}


def test_a_text_and_a_shot_are_encoded_once(folder, guided):
    worker = guided.open(context(folder))
    texts, photos = [], []
    worker.painter.pipe.text_encoder.register_forward_hook(lambda net, given, made: texts.append(len(made[0])))
    worker.painter.pipe.vae.encoder.register_forward_hook(lambda net, given, made: photos.append(len(given[0])))
    worker(captions("cat", "cat"))
    worker(captions("cat", unit=1))
    assert photos == [1] * SHOTS, "one at a time, each once a process"
    assert sum(texts) == 1 + 2 + 1, "the empty prompt, and each caption"


def test_a_batch_that_does_not_fit_is_halved_with_its_shots(folder, guided):
    whole = guided.open(context(folder))(captions("cat", "dog")).to_pylist()
    worker = guided.open(context(folder))
    sample, sizes = worker.painter.sample, []

    def small(embeddings, noise, *settings, **begin):
        sizes.append(len(noise))
        assert len(begin["clean"]) == len(noise)
        if len(noise) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return sample(embeddings, noise, *settings, **begin)

    worker.painter.sample = small
    rows = worker(captions("cat", "dog")).to_pylist()
    assert sizes == [3, 1, *[1] * 7]
    for row, same in zip(rows, whole, strict=True):
        first, second = (np.asarray(Image.open(io.BytesIO(r["image"]))).astype(int) for r in (row, same))
        assert np.abs(first - second).max() <= 2


def test_an_image_that_breaks_the_network_does_not_take_others_with_it(folder, guided):
    worker = guided.open(context(folder))
    sample, bad = worker.painter.sample, seeds.image_seed(SEED, "0-0", 2)

    def breaks(embeddings, noise, *settings, **begin):
        if bad in noise:
            raise RuntimeError("this one")
        return sample(embeddings, noise, *settings, **begin)

    worker.painter.sample = breaks
    rows = worker(captions("cat", "dog")).to_pylist()
    assert Counter(row["status"] for row in rows) == {"ok": 7, "failed": 1}
    assert rows[2]["reason"] == "RuntimeError: this one"
    whole = guided.open(context(folder))(captions("cat", "dog")).to_pylist()
    assert [row["start"] for row in rows] == [row["start"] for row in whole]


def test_a_blank_image_is_tried_again_from_the_same_shot(folder, guided):
    worker = guided.open(context(folder))
    sample, bad = worker.painter.sample, seeds.image_seed(SEED, "0-1", 3)

    def blank(embeddings, noise, *settings, **begin):
        made = sample(embeddings, noise, *settings, **begin)
        made[[seed == bad for seed in noise]] = 0
        return made

    worker.painter.sample = blank
    rows = worker(captions("cat", "dog")).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert rows[7]["seed"] == seeds.image_seed(SEED, "0-1", 3, attempt=1)
    assert rows[7]["start"].split()[0] in shots_of(folder, "dog")
    assert len({row["start"] for row in rows[4:]}) == SHOTS


def test_what_cannot_be_is_refused(folder, guided, tmp_path):
    with pytest.raises(InputError, match=r"no shot of the class 'owl' in shots-0"):
        guided.open(context(folder))(captions("cat", "owl"))
    with pytest.raises(InputError, match=r"3 images of a caption cannot be dealt equally to 2 starts"):
        PaintPixels(per_caption=3, starts=(None, FromShots("shots-0")))
    with pytest.raises(InputError, match=r"no pairs\.lance"):
        PaintPixels(starts=(FromShots(tmp_path),)).check()
    with pytest.raises(InputError, match="no order of shots"):
        FromShots(tmp_path, 3)
    for wrong in ({"level": 1.2}, {"level": -1.0}, {"level": math.nan}, {"num": 0}, {"steps": 0}, {"steps": "all"}):
        with pytest.raises((InputError, UnknownName)):
            FromShots("shots-0", **wrong)


def test_a_store_of_photos_serves_as_well_and_its_smallest_class_sets_the_level(folder, sd_folder, tmp_path):
    rows = [row for row in every(tables.scan(folder / "shots/shots-0/pairs.lance")) if row["unit"] < 2]
    rows = [row | {"unit": 0} for row in rows]
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    worker = PaintPixels(sd_folder, 1, steps=50, starts=(FromShots(tmp_path),)).open(context(folder))
    (guide,) = worker.guides
    assert isinstance(guide, Guide)
    assert guide.start.level**2 == pytest.approx(LEVELS[2] ** 2, abs=1e-3)


def test_starts_are_part_of_the_fingerprint(guided):
    plain = dataclasses.replace(guided, starts=(None,))
    other = dataclasses.replace(guided, starts=(FromShots("shots-0", SHOTS, level=0.5),))
    assert len({stage.fingerprint(stage.settings(each)) for each in (guided, plain, other)}) == 3
