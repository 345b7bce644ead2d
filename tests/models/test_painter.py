import re
import shutil

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reverie.errors import InputError, ModelError, UnknownName
from reverie.models import painter as painters
from reverie.models.painter import Painter, open_painter, pick, to_bytes
from tests.images import pipelines
from tests.models import tiny

KNOWN = ("sd", "sdxl", "pixart", "flux", "sd3")
TEXTS = ["a red circle", "two blue square and a circle"]
SIZE = 32


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("painters")
    return {family: str(pipelines.save(family, root / family)) for family in pipelines.FAMILIES}


@pytest.fixture(scope="module")
def opened(folders):
    return {family: open_painter(folder) for family, folder in folders.items()}


def far(one, other) -> int:
    """Largest difference in levels of 255."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_every_family_paints_the_same_noise_in_any_batch(opened, family):
    painter = opened[family]
    embeddings = painter.encode(TEXTS)
    rows, noise = [0, 0, 1], [11, 12, 11]
    together = painter.paint(pick(embeddings, rows), noise, 2.0, 3, SIZE)
    assert together.shape == (3, SIZE, SIZE, 3)
    assert together.dtype == np.uint8
    assert far(together[0], together[1]) > 20, "copies of a caption must differ"
    assert far(together[0], together[2]) > 0, "the text must matter"
    for index, (row, seed) in enumerate(zip(rows, noise, strict=True)):
        alone = painter.paint(pick(embeddings, [row]), [seed], 2.0, 3, SIZE)
        assert far(alone[0], together[index]) <= 2


@pytest.mark.parametrize("negative", ["", "white square"])
@pytest.mark.parametrize("family", KNOWN)
def test_texts_encoded_before_give_what_the_pipeline_paints_from_the_text(folders, family, negative):
    painter = open_painter(folders[family], negative_prompt=negative)
    ours = painter.paint(painter.encode(TEXTS), [3, 4], 3.0, 3, SIZE)
    plain = {
        "prompt": TEXTS,
        "negative_prompt": [negative] * 2 if negative else None,
        "generator": [torch.Generator().manual_seed(seed) for seed in (3, 4)],
        "guidance_scale": 3.0,
        "num_inference_steps": 3,
        "height": SIZE,
        "width": SIZE,
        "output_type": "np",
    }
    if family == "pixart":
        plain |= {"use_resolution_binning": False, "clean_caption": False, "negative_prompt": [negative] * 2}
    theirs = (painter.pipe(**plain).images * 255).round().astype(np.uint8)
    assert far(ours, theirs) <= 1


def by_hand(painter, text, seed, guidance, steps):
    """DDIM with eta 0 and guidance, written from the formulas; the network is called for one text at a time."""
    pipe, alphas = painter.pipe, painter.pipe.scheduler.alphas_cumprod
    x = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(seed))

    def states(words):
        ids = [2, *(pipelines.WORDS.index(word) for word in words.split()), 1]
        ids += [0] * (pipelines.LENGTH - len(ids))
        return pipe.text_encoder(torch.tensor([ids])).last_hidden_state

    stride = 1000 // steps
    for t in [stride * number + 1 for number in reversed(range(steps))]:
        with_text, without = (pipe.unet(x, t, encoder_hidden_states=states(words)).sample for words in (text, ""))
        eps = without + guidance * (with_text - without)
        before = alphas[t - stride] if t > stride else alphas[0]
        x0 = (x - (1 - alphas[t]) ** 0.5 * eps) / alphas[t] ** 0.5
        x = before**0.5 * x0 + (1 - before) ** 0.5 * eps
    return (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_guidance_equals_a_sampler_written_by_hand(opened, guidance):
    painter = opened["sd"]
    ours = painter.sample(painter.encode(["a red circle"]), [5], guidance, 4, SIZE)
    with torch.no_grad():
        assert torch.allclose(ours, by_hand(painter, "a red circle", 5, guidance, 4), atol=2e-4)
        other = by_hand(painter, "a red circle", 5, guidance + 1, 4)
    assert (ours - other).abs().max() > 5e-3, "the test must be able to tell one guidance from another"


def count_passes(painter, net, guidance):
    passes = []
    hook = net.register_forward_hook(lambda net, given, made: passes.append(made[0].shape[0]))
    painter.sample(painter.encode(["a red circle"]), [1], guidance, 2, SIZE)
    hook.remove()
    return sum(passes)


def test_no_guidance_costs_one_pass_a_step(opened):
    painter = opened["sd"]
    assert count_passes(painter, painter.pipe.unet, 1.0) == 2
    assert count_passes(painter, painter.pipe.unet, 2.0) == 4


def test_flux_takes_guidance_as_input_when_distilled_and_as_two_passes_when_not(opened):
    distilled = opened["flux"]
    assert count_passes(distilled, distilled.pipe.transformer, 3.0) == 2
    torch.manual_seed(0)
    plain = Painter(pipelines.flux(guidance_embeds=False))
    assert count_passes(plain, plain.pipe.transformer, 3.0) == 4
    assert count_passes(plain, plain.pipe.transformer, 1.0) == 2


def test_noise_is_equal_to_the_bit_in_any_batch_and_dtype(folders, opened):
    seen = []
    for painter in (opened["sd"], open_painter(folders["sd"], dtype="bf16")):
        hook = painter.pipe.unet.register_forward_pre_hook(
            lambda net, args, kwargs: seen.append(args[0].clone()), with_kwargs=True
        )
        embeddings = painter.encode(["a red circle"])
        for noise in ([7], [6, 7, 8]):
            painter.sample(pick(embeddings, [0] * len(noise)), noise, 1.0, 1, SIZE)
        hook.remove()
    assert torch.equal(seen[0][0], seen[1][1])
    assert torch.equal(seen[2][0], seen[3][1])
    assert torch.equal(seen[0].bfloat16(), seen[2])


@pytest.mark.parametrize("name", [name for name in painters.SCHEDULERS if name != "flow-match"])
def test_schedulers_by_name(folders, name):
    painter = open_painter(folders["sd"], scheduler=name)
    embeddings = pick(painter.encode(["a red circle"]), [0, 0])
    both = painter.paint(embeddings, [1, 2], 2.0, 6, SIZE)
    alone = painter.paint(pick(embeddings, [1]), [2], 2.0, 6, SIZE)
    assert painter.scheduler == name
    assert type(painter.pipe.scheduler).__name__ == painters.SCHEDULERS[name][0]
    assert both.std() > 5
    assert far(both[1], alone[0]) <= 2, "also the noise added between steps belongs to the image"


def test_defaults_of_schedulers(opened):
    assert {family: painter.scheduler for family, painter in opened.items()} == {
        "sd": "ddim",
        "sdxl": "ddim",
        "pixart": "dpm-solver++",
        "flux": "flow-match",
        "sd3": "flow-match",
        "lcm": "LCMScheduler",
    }
    # The folder has a PNDM file, which says nothing about clipping; DDIM alone would clip latents at 1.
    assert opened["sd"].pipe.scheduler.config.clip_sample is False


def test_slips_are_answered_in_one_line(folders, opened, tmp_path):
    folder = folders["sd"]
    with pytest.raises(UnknownName, match="did you mean ddim"):
        open_painter(folder, scheduler="dimm")
    with pytest.raises(InputError, match="use flow-match"):
        open_painter(folders["flux"], scheduler="ddim")
    with pytest.raises(InputError, match="does not fit StableDiffusionPipeline"):
        open_painter(folder, scheduler="flow-match")
    with pytest.raises(UnknownName, match="dtype"):
        open_painter(folder, dtype="fp8")
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        open_painter(folder, dtype="fp16")
    with pytest.raises(ModelError, match="language model on a server; what is needed"):
        open_painter("openai:model@http://localhost:1/v1")
    for wrong in ({"guidance": 0.5}, {"steps": 0}, {"steps": 1001}, {"size_px": 36}, {"size_px": -8}):
        with pytest.raises(InputError):
            opened["sd"].check(**{"guidance": 2.0, "steps": 4, "size_px": SIZE, **wrong})
    with pytest.raises(InputError, match="multiple of 16"):
        opened["flux"].check(2.0, 4, 40)


def test_folders_that_hold_no_painter(folders, tmp_path):
    for part, text in (("unet", "safetensors"), ("text_encoder", "safetensors")):
        broken = shutil.copytree(folders["sd"], tmp_path / part)
        (next((broken / part).glob("*.safetensors"))).unlink()
        with pytest.raises(ModelError, match=text) as caught:
            open_painter(str(broken))
        assert "\n" not in str(caught.value)
    diffusers.DDPMPipeline(
        diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        ),
        diffusers.DDPMScheduler(),
    ).save_pretrained(tmp_path / "unconditional")
    with pytest.raises(ModelError, match="cannot load unconditional") as caught:
        open_painter(str(tmp_path / "unconditional"))
    assert "\n" not in str(caught.value)


def test_revision_follows_the_weights(folders, tmp_path):
    again = open_painter(str(shutil.copytree(folders["sd"], tmp_path / "sd")))
    assert again.revision == open_painter(folders["sd"]).revision
    assert again.revision.startswith("sd@")


def test_words_without_a_token_are_listed(opened):
    assert opened["sd"].words_unknown(["a red zebra, two Zebra", "a zebra on white"]) == ["zebra", ",", "Zebra"]
    assert opened["sd"].words_unknown(["a red circle"]) == []


@pytest.mark.parametrize("family", ["sd", "pixart"])
def test_long_texts_are_cut_with_the_end_token_kept_and_counted(folders, family):
    painter = open_painter(folders[family])
    limit = {"sd": pipelines.LENGTH, "pixart": 120}[family]
    assert painter.text_limit == limit
    special = 2 if family == "sd" else 1
    fits, long = " ".join(["red"] * (limit - special)), " ".join(["red"] * (limit + 5))
    seen = []
    painter.pipe.text_encoder.register_forward_pre_hook(
        lambda net, args, kwargs: seen.append(args[0]), with_kwargs=True
    )
    painter.encode([fits, long, "red"])
    assert painter.num_cut == 1
    (ids,) = seen
    assert ids.shape == (3, limit)
    assert ids[1, -1] == 1, "the last token is the end token"
    assert torch.equal(ids[0], ids[1])


def test_not_finite_is_found_before_it_becomes_bytes(opened):
    images = torch.rand(3, 3, 4, 4)
    images[1, 0, 0, 0] = torch.nan
    levels, finite = to_bytes(images)
    assert finite.tolist() == [True, False, True]
    assert levels.shape == (3, 4, 4, 3)
    assert far(levels[0], (images[0].permute(1, 2, 0) * 255).round().byte().numpy()) == 0

    painter = opened["sd"]
    embeddings = pick(painter.encode(["a red circle"]), [0, 0])
    embeddings["prompt_embeds"][1] = torch.nan
    with pytest.raises(ModelError, match="1 of 2 images are not finite"):
        painter.paint(embeddings, [1, 2], 1.0, 2, SIZE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_the_picture_is_the_one_of_the_cpu(folders, opened, dtype):
    painter = open_painter(folders["sd"], "cuda", dtype=dtype)
    ours = painter.paint(painter.encode(TEXTS), [1, 2], 2.0, 4, SIZE)
    cpu = opened["sd"].paint(opened["sd"].encode(TEXTS), [1, 2], 2.0, 4, SIZE)
    assert np.abs(ours.astype(int) - cpu).mean() < 12


def said(act) -> str:
    """What it is refused with, but for the name of the size; empty where it is not."""
    try:
        act()
    except (InputError, UnknownName) as error:
        return str(error).replace("--paint-px ", "size ").replace(" px does", " does")
    return ""


@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_what_the_files_tell_is_what_the_opened_painter_tells(opened, folders, family):
    """All sizes, numbers of steps and schedulers: refused before any work by the same words, or taken by both."""
    painter = opened[family]
    for size in (1, 8, 12, 16, 20, 24, 32, 40, 48, 100):
        refused = said(lambda size=size: painters.check_painter(folders[family], 3, size))
        assert refused == said(lambda size=size: painter.check(2.0, 3, size)), size
    for steps in (1, 1000, 1001, 10**6):
        refused = said(lambda steps=steps: painters.check_painter(folders[family], steps, None))
        assert refused == said(lambda steps=steps: painter.check(2.0, steps, painter.size_px)), steps
    for name in (*painters.SCHEDULERS, "dimm"):
        refused = said(lambda name=name: painters.check_painter(folders[family], 3, None, name))
        assert refused == said(lambda name=name: painters._scheduler(name, painter.pipe)), name
    with pytest.raises(ModelError, match="paints no tokens"):
        painters.check_painter(folders[family], 3, None, tokens=True)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_network_that_lacks_a_weight_is_told_before_any_work(family, folders, tmp_path):
    folder = tmp_path / "painter"
    shutil.copytree(folders[family], folder)
    painters.check_painter(str(folder), 3, None)
    for part in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2"):
        if file := next((folder / part).glob("*.safetensors"), None):
            tensors = load_file(file)
            gone = sorted(tensors)[len(tensors) // 2]
            save_file({name: value for name, value in tensors.items() if name != gone}, file, {"format": "pt"})
            with pytest.raises(ModelError, match=rf"/{part} lacks 1 of its weights \({re.escape(gone)}\)") as caught:
                painters.check_painter(str(folder), 3, None)
            with pytest.raises(ModelError) as late:
                open_painter(str(folder))
            assert str(late.value) == str(caught.value)
            save_file(tensors, file, {"format": "pt"})


def test_a_painter_of_tokens_tells_its_grid_before_it_is_opened(tmp_path):
    folder = str(tiny.save_amused(tmp_path / "amused"))
    painter = open_painter(folder)
    painters.check_painter(folder, 3, None)
    painters.check_painter(folder, 3, painter.size_px, tokens=True)
    refused = said(lambda: painters.check_painter(folder, 3, 2 * painter.size_px))
    assert refused.partition("amused")[2].partition(" ")[2] in said(lambda: painter.check(2.0, 3, 2 * painter.size_px))
    assert f"which are {painter.size_px} px" in refused
    with pytest.raises(InputError, match="no scheduler to choose"):
        painters.check_painter(folder, 3, None, "ddim")
    with pytest.raises(ModelError, match="language model on a server; what is needed here is a text-to-image pipeline"):
        painters.check_painter("openai:m@http://localhost:1/v1", 3, None)
