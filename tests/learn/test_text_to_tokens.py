"""The masked model of ids: its masks by the cosine law, its loss by a loop, and a painter that learnt two colours."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AmusedPipeline
from transformers import AutoTokenizer

from reverie import pairs
from reverie.errors import InputError
from reverie.learn.fit import Fit, fit
from reverie.learn.text_to_tokens import TextToTokens, TokenPredictor, masked
from reverie.learn.train_painter import LatentBatches
from reverie.learn.train_token_painter import TrainTokenPainter, read_tokens
from reverie.models.token_painter import open_token_painter, painted_ids
from reverie.models.tokenizer import open_tokenizer
from reverie.nets.words import split_words, write_tokenizer
from reverie.stage import StepContext
from reverie.store import tables
from tests.models import tiny

CODES = 12


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    tiny.save_vq(folder / "vq")
    write_tokenizer(folder / "words", split_words(["a red thing", "a blue thing"]), 6)
    return folder


def small(parts: Path, **changes: object) -> TextToTokens:
    settings = {"grid": 4, "width": 32, "layers": 1, "heads": 2, "conv_width": 32, "conv_blocks": 1, "conv_heads": 2}
    texts = {"text_width": 16, "text_layers": 2}
    return TextToTokens(str(parts / "vq"), str(parts / "words"), **(settings | texts | changes))  # type: ignore[arg-type]


def test_masks_follow_the_cosine_law() -> None:
    torch.manual_seed(0)
    shares = masked(100_000, 64).float().mean(1)
    assert shares.mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    assert shares.min() == 1 / 64  # at least one
    # P(share <= r) = 1 - 2 / pi arccos(r)
    for r in (0.25, 0.5, 0.9):
        assert (shares <= r).float().mean().item() == pytest.approx(1 - 2 / math.pi * math.acos(r), abs=0.02)
    # Every place is as likely as any other.
    assert masked(20_000, 16).float().mean(0).std() < 0.01


def test_as_many_places_are_masked_as_a_loop_says() -> None:
    torch.manual_seed(5)
    found = masked(50, 16)
    torch.manual_seed(5)
    draws, order = torch.rand(50), torch.rand(50, 16)
    for row in range(50):
        num = max(1, round(math.cos(math.pi / 2 * float(draws[row])) * 16))
        first = sorted(range(16), key=lambda place: float(order[row, place]))[:num]
        assert found[row].nonzero().ravel().tolist() == sorted(first)


@pytest.mark.parametrize("weighed", [False, True])
def test_the_loss_is_that_of_a_loop_over_masked_places_and_some_captions_are_dropped(
    parts: Path, weighed: bool
) -> None:
    learner = small(parts, caption_drop=0.5)
    torch.manual_seed(0)
    net = learner.build().eval()
    assert isinstance(net, TokenPredictor)
    ids = torch.randint(0, CODES, (6, 4, 4))
    weights = torch.randint(1, 5, (6, 4, 4)).float() if weighed else torch.ones(6, 4, 4)
    torch.manual_seed(3)
    batch = {"latents": ids.float(), "text": ["a red thing"] * 6}
    told = learner.losses(net, batch | {"weights": weights} if weighed else batch)
    torch.manual_seed(3)
    hidden = masked(6, 16).view(6, 4, 4)
    dropped = (torch.rand(6) < 0.5).tolist()
    assert True in dropped
    assert False in dropped
    words = AutoTokenizer.from_pretrained(parts / "words")
    total, right, count, weighs = 0.0, 0, 0, 0.0
    for image in range(6):
        shown = ids[image].clone()
        shown[hidden[image]] = CODES
        text = words(
            "" if dropped[image] else "a red thing", padding="max_length", truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            out = net.text_encoder(text.input_ids, output_hidden_states=True)
            logits = net.net(
                shown[None],
                encoder_hidden_states=out.hidden_states[-2],
                pooled_text_emb=out.text_embeds,
                micro_conds=torch.tensor([[16.0, 16.0, 0.0, 0.0, 6.0]]),
            )[0]
        for row in range(4):
            for column in range(4):
                if hidden[image, row, column]:
                    scores = logits[:, row, column].double()
                    true = int(ids[image, row, column])
                    weight = float(weights[image, row, column])
                    total += weight * float(scores.exp().sum().log() - scores[true])
                    weighs += weight
                    right += int(scores.argmax()) == true
                    count += 1
    assert told["loss"].item() == pytest.approx(total / weighs, rel=1e-4)
    assert told["accuracy"].item() == pytest.approx(right / count)


def test_token_ids_and_texts_are_the_same_batch(parts: Path) -> None:
    learner = small(parts, caption_drop=0.5)
    torch.manual_seed(0)
    net = learner.build().eval()
    ids, texts = torch.randint(0, CODES, (8, 4, 4)), ["a red thing", "a blue thing"] * 4
    losses = []
    for told in ({"text": texts}, {"token_ids": learner.tokens(texts).short()}):
        torch.manual_seed(1)
        losses.append(learner.losses(net, {"latents": ids, **told})["loss"].item())
    assert losses[0] == pytest.approx(losses[1])


def test_the_share_of_dropped_captions_is_the_one_asked_for(parts: Path) -> None:
    """Not one minus it, as in a public script."""
    learner = small(parts, caption_drop=0.1)
    seen: list[torch.Tensor] = []

    class Listens(torch.nn.Module):
        def forward(self, ids: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
            seen.append(token_ids)
            return torch.zeros(len(ids), CODES, 1, 1)

    torch.manual_seed(0)
    learner.losses(Listens(), {"latents": torch.zeros(4000, 1, 1), "text": ["a red thing"] * 4000})
    empty = (seen[0] == learner.tokens([""])).all(1).float().mean()
    assert empty.item() == pytest.approx(0.1, abs=0.02)


def test_a_painter_trained_on_two_pictures_paints_the_one_asked_for(parts: Path, tmp_path: Path) -> None:
    learner = small(parts)
    red, blue = torch.full((4, 4), 2), torch.full((4, 4), 7)
    red[0, 1], blue[3, 2] = 5, 9
    batches = LatentBatches(torch.stack([red, blue]).short(), [["a red thing"], ["a blue thing"]], 16, 0)
    settings = Fit(steps=120, lr=3e-3, warmup_steps=10, weight_decay=0, clip=1.0, ema=0.9)
    fitted = fit(learner, batches, settings, tmp_path / "fit", seed=0)
    learner.save(fitted.net, tmp_path / "painter")
    assert AmusedPipeline.from_pretrained(tmp_path / "painter").scheduler.config.mask_token_id == CODES
    painter = open_token_painter(str(tmp_path / "painter"))
    found = painted_ids(painter, ["a red thing", "a blue thing"] * 3, range(6), guidance=2.0, steps=4)
    wanted = np.stack([red.numpy(), blue.numpy()] * 3)
    assert (found == wanted).mean() > 0.9
    # And trained on from there, it begins as good as it was.
    again = small(parts, start=str(tmp_path / "painter"))
    first = again.losses(again.build().eval(), next(batches.iterate(0)))
    assert first["loss"].item() < 1.0 < math.log(CODES)


def test_what_cannot_be_is_refused(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="caption_drop"):
        small(parts, caption_drop=1.5)
    with pytest.raises(InputError, match="heads"):
        small(parts, heads=3)
    tiny.save_amused(tmp_path / "amused")
    tiny.save_vq(tmp_path / "more", num_vq_embeddings=13)
    learner = TextToTokens(str(tmp_path / "more"), str(parts / "words"), start=str(tmp_path / "amused"))
    with pytest.raises(InputError, match="paints ids of 12 codes, and the tokenizer has 13"):
        learner.build()
    tiny.save_vq(tmp_path / "other", seed=5)
    learner = TextToTokens(str(tmp_path / "other"), str(parts / "words"), start=str(tmp_path / "amused"))
    with pytest.raises(InputError, match=r"is not the one of .*other, so its ids"):
        learner.build()


def row(number: int, **changes: object) -> dict[str, object]:
    caption = pairs.caption_id(0, "test", number)
    tokens = [2] * 16 if number % 2 else [7] * 16
    text = "a red thing" if number % 2 else "a blue thing"
    return {
        "pair_id": pairs.pair_id(caption, 0), "caption_id": caption, "copy": 0, "unit": 0, "text": text, "status": "ok",
        "tokens": tokens, "grid": [4, 4], "image": b"never opened", **changes,
    }  # fmt: skip


def test_a_job_trains_on_the_tokens_of_a_store_and_opens_no_image(parts: Path, tmp_path: Path) -> None:
    name = open_tokenizer(str(parts / "vq")).codebook_name
    rows = [row(number, codebook=name) for number in range(4)]
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    events: list[str] = []
    context = StepContext(tmp_path, "painter", report=lambda kind, **facts: events.append(kind))
    sizes = {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "conv_width": 16,
        "conv_blocks": 1,
        "conv_heads": 2,
        "text_width": 16,
    }
    job = TrainTokenPainter(str(parts / "vq"), **sizes, fit=Fit(steps=2), batch=2)  # type: ignore[arg-type]
    job.run(context)
    painter = open_token_painter(str(context.weights()))
    assert (painter.side, painter.tokenizer.codebook_name) == (4, name)
    assert painter.words_unknown(["a green thing"]) == ["green"]
    assert "trained" in events
    job.run(context)
    assert events.count("trained") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codebook": "feed"}, r"the codebook of vq@\w+ is not the one of pair"),
        ({"tokens": [2] * 15 + [12]}, r"id 12 is none of vq@"),
        ({"tokens": [2] * 9, "grid": [3, 3]}, r"9 tokens in a grid of \[3, 3\], not in 4 x 4"),
        ({"text": " "}, "has no caption"),
    ],
)
def test_tokens_that_cannot_be_learnt_from_are_refused(
    parts: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    rows = [row(0), row(1, **changes)]
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    known = open_tokenizer(str(parts / "vq"))
    with pytest.raises(InputError, match=said):
        read_tokens(tmp_path / "pairs.lance", "tokens is not null", known)
    with pytest.raises(InputError, match="there are no image tokens to learn from"):
        read_tokens(tmp_path / "pairs.lance", "text = 'none'", known)
