"""About a hundred captions that people wrote -> a captioner that captions as they do: an image-text-to-text model, tuned.

Images are held out, 20 by default, and of what was tried now and then the weights are taken that give their captions the lowest loss; those before
the first step are tried too, so that tuning never makes a captioner worse by this measure. Before and after, the captioner describes these images, and
numbers say what it learned: length, variety, repetition, hallucinated things and recall.

    weights/STEP/    the model, which transformers opens, its tokenizer and processor, and describer.json: prompts, settings, numbers

Source: RECAP, arXiv:2310.16656: a captioner is tuned on few human captions for short and long ones. That only the language part learns,
by LoRA, how long, and what it is chosen by are ours: the paper's own numbers are not known from public sources.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie import seeds, stage
from reverie.captions.class_captions import without_stem
from reverie.captions.classes import read_list
from reverie.datasets.human_captions import HumanCaption, hold_out, one_id_each, pictures_of, read_human_captions
from reverie.errors import InputError, SettingsChanged, TrainingError
from reverie.learn.fit import Fit, FitSpeed, fit
from reverie.learn.lora import add_lora, check_lora, merge_lora
from reverie.models.artifacts import has_artifact
from reverie.models.describer import (
    ABOUT,
    STYLES,
    Asking,
    Decoding,
    LocalDescriber,
    Style,
    asking_of,
    check_describer,
    encode,
    place_of,
)
from reverie.models.pretrained import copy_small_files, load_model, load_processor, load_tensors
from reverie.nets.saving import save_pretrained
from reverie.recaption.checks import COCO, Things, quality
from reverie.recaption.mix import CHANNELS, has_words
from reverie.stage import EventSink, Job, StepContext, Trial
from reverie.store.files import atomic_file, atomic_folder
from reverie.store.json_files import read_json

FULL_LR, LORA_LR = 4e-5, 1e-4
LIKELIEST = Decoding(120)  # what is written for the numbers, so that they do not hang on draws
EYES = {
    "vision_tower",
    "vision_model",
    "visual",
    "vision_encoder",
    "encoder_vision",
    "image_encoder",
    "qformer",
}  # parts that see
BEST = {"steps": {...: float}, "best": int}


@dataclass(frozen=True)
class Describing:
    """Learns to answer as in ``labels``: batches are inputs of the model, made by ``examples``."""

    captioner: str
    lora: int = 16  # rank of what learns beside the language part; 0 = the language part itself
    dropout: float = 0.05  # of LoRA

    def build(self) -> nn.Module:
        """The model, whose eyes stay as they are."""
        place = place_of(self.captioner)
        net: nn.Module = load_model(transformers.AutoModelForImageTextToText, place)
        if self.lora:
            add_lora(net, self.lora, f"the language part of {place.name}", self.dropout, EYES)
            return net
        for name, weight in net.named_parameters():
            weight.requires_grad_(not EYES & set(name.split(".")))
        return net

    def losses(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of the words of the captions, the end among them."""
        return {"loss": net(**batch).loss}

    def save(self, net: nn.Module, folder: Path) -> None:
        """The model folder, adapters added to the weights."""
        merge_lora(net)
        save_pretrained(net.cpu(), folder)
        copy_small_files(place_of(self.captioner), folder)


@dataclass(frozen=True)
class HumanBatches:
    """Random batches of captions, a pure function of (seed, position); of the styles that there are each has an equal share."""

    captions: Sequence[HumanCaption]
    encode: Callable[[Sequence[HumanCaption]], dict[str, Any]]
    batch: int
    seed: int

    def iterate(self, start: int) -> Iterator[dict[str, Any]]:
        """Batches without end, from position ``start``."""
        by_style = [found for style in STYLES if (found := [each for each in self.captions if each.style == style])]
        while True:
            rng = np.random.default_rng(seeds.derive("human captions", self.seed, start))
            chosen = [by_style[int(rng.integers(len(by_style)))] for _ in range(self.batch)]
            yield self.encode([some[int(rng.integers(len(some)))] for some in chosen])
            start += 1


@dataclass(frozen=True)
class TuneDescriber(Job):
    """Human captions -> a tuned captioner in ``context.weights()``."""

    beside: ClassVar[bool] = True

    captioner: str = "builtin:describer"  # any image-text-to-text model by builtin:NAME, folder or Hub id
    human: Path | str = Path("captions.jsonl")  # see datasets/human_captions.py; or the step that draws some
    store: Path | str | None = (
        None  # folder with pairs.lance, or the step that took pairs, where captions name pairs; the run's own when None
    )
    steps: int = 300
    batch: int = 16
    lr: float = 0.0  # peak learning rate; 0 = 1e-4 with LoRA, 4e-5 without
    lora: int = 16  # rank of LoRA beside the language part; 0 = its weights learn
    dropout: float = 0.05
    held_out: int = 20  # images whose captions choose the best weights
    every: int = 25  # steps between two looks at the held-out captions
    prompt_short: str = ""  # what is asked; what is usual for the model when empty
    prompt_long: str = ""
    objects: Path | None = (
        None  # file of names of things, one a line, whose hallucination is counted; those of COCO, or of the small world
    )
    max_tokens: int = 120  # longest caption that is written for the numbers
    seed: int = 0
    batch_size: ClassVar[int] = 8  # pictures that are described at once

    def __post_init__(self) -> None:
        if self.held_out < 1 or self.every < 1 or self.batch < 1:
            raise InputError(
                f"{self.held_out} held-out images, a look every {self.every} steps and batches of {self.batch} cannot be; give 1 or more"
            )
        self._fit()

    def check(self) -> None:
        """Raises InputError for captions that are too few or cannot be read; ModelError for a captioner that cannot see, or is not tuned here."""
        check_lora(self.lora)
        check_describer(self.captioner)
        if has_artifact("captioner", Path(self.captioner)) or place_of(self.captioner).kind == "openai":
            raise InputError(
                f"{self.captioner} is not tuned here: --human is for an image-text-to-text model of transformers; leave it out to take "
                "this captioner as it is"
            )
        if isinstance(self.human, Path):
            hold_out(read_human_captions(self.human), self.held_out, self.human)
        self._things()

    def run(self, context: StepContext) -> None:
        """Tune, or go on; the folder lands last. Raises what ``check`` does, InputError for images that are not there, what ``fit`` raises."""
        if context.weights().exists():
            return
        self.check()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise InputError("a captioner is tuned by one process; start reverie without accelerate launch")
        file = self.human if isinstance(self.human, Path) else context.shots(self.human) / "captions.jsonl"
        captions = read_human_captions(file)
        captions, pictures = one_id_each(captions, pictures_of(captions, self._pairs(context)))
        train, held = hold_out(captions, self.held_out, file)
        own = self._own_captions(context, captions, train)
        train += own
        pictures |= pictures_of(own, self._pairs(context))
        begin, work = self._begin(context), context.checkpoints()
        place = place_of(begin)
        processor, asking = load_processor(place), asking_of(place, self._prompts())

        def encoded(some: Sequence[HumanCaption]) -> dict[str, Any]:
            return examples(
                processor, asking, [pictures[each.image_id] for each in some], [each.style for each in some], [each.text for each in some]
            )  # fmt: skip

        learner = Describing(begin, self.lora, self.dropout)
        look = _Look(held, encoded, self.batch, work / "best")
        work.mkdir(parents=True, exist_ok=True)
        before_file = work / "before.json"
        if not before_file.exists():
            net = learner.build().to(context.device).eval()
            look(0, net)
            numbers = {"loss": look.known["steps"]["0"]}
            _write(before_file, numbers | self._numbers(net, processor, asking, held, pictures, context))
            del net
        before = read_json(before_file, {...: object}, TrainingError, "delete it, then run the same command again")

        def watch(step: int, net: nn.Module) -> None:
            if step % self.every == 0 or step == self.steps:
                look(step, net)

        seed = seeds.derive("describer", context.seed, self.seed)
        batches = HumanBatches(train, encoded, self.batch, seed)
        net, _ = fit(
            learner, batches, self._fit(), work, seed=seed, device=context.device, report=context.report, watch=watch
        )
        best = look.load(net)
        after = {"loss": look.known["steps"][str(best)]} | self._numbers(
            net.eval(), processor, asking, held, pictures, context
        )
        about = {
            "prompts": {style: asking.prompts[style] for style in STYLES},
            "captioner": str(place),
            "captions": len(train),
            **({"own_captions": len(own)} if own else {}),
            "images": len({each.image_id for each in train}),
            "held_out": self.held_out,
            "best_step": best,
            "held_out_loss": look.known["steps"],
            "before": before,
            "after": after,
        }
        with atomic_folder(context.weights()) as temporary:
            learner.save(net, temporary)
            (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
        told = {
            f"{name}_{when}": value
            for when, some in (("before", before), ("after", after))
            for name, value in some.items()
        }
        context.report("trained", steps=best, images=about["images"], captions=len(train), **told)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps with one look at the held-out captions, and what is written before and after."""
        few = min(steps, self.steps)
        return Trial(dataclasses.replace(self, steps=few, every=few), self.steps)

    def _begin(self, context: StepContext) -> str:
        """The captioner whose weights the tuning begins at."""
        return self.captioner

    def _own_captions(
        self, context: StepContext, captions: Sequence[HumanCaption], train: Sequence[HumanCaption]
    ) -> list[HumanCaption]:
        """Captions that nobody wrote, to learn from beside those that people did."""
        return []

    def _fit(self) -> Fit:
        lr = self.lr or (LORA_LR if self.lora else FULL_LR)
        return Fit(
            self.steps, lr, min(20, self.steps // 10), weight_decay=0.01, betas=(0.9, 0.999), clip=1.0,
            speed=FitSpeed(checkpoint_every_s=60),
        )  # fmt: skip

    def _prompts(self) -> dict[Style, str]:
        given: dict[Style, str] = {"short": self.prompt_short, "long": self.prompt_long}
        return {style: prompt for style, prompt in given.items() if prompt}

    def _pairs(self, context: StepContext) -> Path | None:
        from reverie.datasets.few_shot import shots_store
        from reverie.store import tables

        pairs = shots_store(context, self.store) if self.store else context.pairs
        return pairs if tables.exists(pairs) else None

    def _things(self) -> Things:
        if self.objects:
            return Things(read_list(self.objects, "objects"))
        if self.captioner.startswith("builtin:"):
            from reverie.smallworld.scene import class_names

            return Things(class_names())
        return Things(COCO)

    def _numbers(
        self,
        net: Any,
        processor: Any,
        asking: Asking,
        held: Sequence[HumanCaption],
        pictures: dict[str, Image.Image],
        context: StepContext,
    ) -> dict[str, float | None]:
        """What the captioner says of held-out images, in numbers; long captions, or short ones where people wrote no others."""
        style: Style = "long" if any(each.style == "long" for each in held) else "short"
        names = list(dict.fromkeys(each.image_id for each in held))
        things = self._things()
        true = [
            set().union(*(things.there(each.objects, each.text) for each in held if each.image_id == name))
            for name in names
        ]
        describer = LocalDescriber(net, processor, asking, self.captioner, context.device, self.batch_size)
        how = dataclasses.replace(LIKELIEST, max_tokens=self.max_tokens)
        said = describer.describe([pictures[name] for name in names], [0] * len(names), style, how)
        said = [without_stem(text) for text in said]
        return quality(said, true, things, describer.num_tokens(said), describer.limit)


@dataclass(frozen=True)
class TuneAgain(TuneDescriber):
    """A second round: the captioner of the first, tuned once more, on people's captions and its own.

    Beside each caption of people that is learned from stands one of its own, of the same style and of an image that nobody captioned, whose checks
    found nothing (flags empty). Which weights are kept, the same held-out captions of people decide. The round is ours, not the paper's.
    """

    first: str = (
        f"{stage.OF_STEP}captioner"  # what the first round left, in place of ``captioner``, which that began at
    )

    def _begin(self, context: StepContext) -> str:
        return context.model(self.first)

    def _own_captions(
        self, context: StepContext, captions: Sequence[HumanCaption], train: Sequence[HumanCaption]
    ) -> list[HumanCaption]:
        from reverie.store import tables

        store, taken = self._pairs(context), {each.image_id for each in captions}
        assert store is not None
        own: list[HumanCaption] = []
        for style in STYLES:
            column = CHANNELS[style]
            good = f"status = 'ok' and {has_words(column)} and cardinality({column}_flags) = 0"
            rows = (row for part in tables.scan(store, ["pair_id", column], good) for row in part.to_pylist())
            drawn = (
                (seeds.derive("own captions", context.seed, self.seed, style, row["pair_id"]), row["pair_id"], row[column])
                for row in rows if row["pair_id"] not in taken
            )  # fmt: skip
            wanted = sum(each.style == style for each in train)
            own += [HumanCaption(name, text, style) for _, name, text in heapq.nsmallest(wanted, drawn)]
        if len(own) < len(train):
            text = f"the captioner has {len(own):,} captions of its own without flags for the {len(train):,} of people that it is tuned on again"
            context.report("warning", text=text)
        return own


class _Look:
    """Looks at held-out captions, and keeps what learned of the weights that gave them the lowest loss."""

    def __init__(
        self,
        held: Sequence[HumanCaption],
        encoded: Callable[[Sequence[HumanCaption]], dict[str, Any]],
        batch: int,
        folder: Path,
    ) -> None:
        self.held, self.encoded, self.batch, self.folder = held, encoded, batch, folder
        self.known: dict[str, Any] = {"steps": {}, "best": 0}
        if (folder / "best.json").exists():
            self.known = read_json(folder / "best.json", BEST, TrainingError, f"delete {folder.parent} to begin anew")

    @torch.no_grad()
    def loss(self, net: nn.Module) -> float:
        """Mean over the captions of their loss by word."""
        was, total = net.training, 0.0
        net.eval()
        device = next(net.parameters()).device
        for caption in self.held:
            batch = {name: value.to(device) for name, value in self.encoded([caption]).items()}
            total += float(net(**batch).loss)
        net.train(was)
        return total / len(self.held)

    def __call__(self, step: int, net: nn.Module) -> None:
        steps, loss = self.known["steps"], self.loss(net)
        earlier = {int(name): value for name, value in steps.items() if int(name) < step}
        steps = {str(name): value for name, value in earlier.items()} | {str(step): loss}
        best = min((value, int(name)) for name, value in steps.items())[1]
        if best == step:
            self.folder.mkdir(parents=True, exist_ok=True)
            learning = {
                name: weight.detach().cpu().contiguous()
                for name, weight in net.named_parameters()
                if weight.requires_grad
            }
            with atomic_file(self.folder / f"{step}.safetensors") as partial:
                save_file(learning, partial)
        self.known = {"steps": steps, "best": best}
        _write(self.folder / "best.json", self.known)
        for file in self.folder.glob("*.safetensors"):
            if file.stem != str(best):
                file.unlink()

    def load(self, net: nn.Module) -> int:
        """Put the best weights in place. Returns: the step that they are of."""
        best = int(self.known["best"])
        weights = load_tensors(self.folder / f"{best}.safetensors")
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if name in weights:
                    weight.copy_(weights[name])
        return best


def examples(
    processor: Any, asking: Asking, pictures: Sequence[Image.Image], styles: Sequence[Style], texts: Sequence[str]
) -> dict[str, Tensor]:
    """Inputs of an image-text-to-text model with ``labels``: the answers, with -100 where nothing is to be said.

    PaliGemma's processor makes them itself, with the token types that its mask comes of. Where an encoder reads the question, labels are the
    answer alone; for all others the answer stands behind the question, and labels begin where the two differ.
    """
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    questions = [asking.question(style, processor) for style in styles]
    if asking.kind == "paligemma":
        made = encode(processor, pictures, questions, suffix=list(texts))
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}
    if asking.seq2seq:
        made = encode(processor, pictures, questions)
        answers = tokenizer([_ended(text, tokenizer) for text in texts], padding=True, return_tensors="pt")
        labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, -100)
        return {name: value for name, value in made.items() if isinstance(value, Tensor)} | {"labels": labels}
    joined = [
        f"{question}{_gap(question)}{_ended(text, tokenizer)}" for question, text in zip(questions, texts, strict=True)
    ]
    made = encode(processor, pictures, joined)
    labels = made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)
    for row, (picture, question) in enumerate(zip(pictures, questions, strict=True)):
        alone = encode(processor, [picture], [question])["input_ids"][0]
        both = made["input_ids"][row, : len(alone)]
        differ = torch.nonzero(both != alone[: len(both)])
        labels[row, : int(differ[0]) if len(differ) else len(alone)] = -100
    return {name: value for name, value in made.items() if isinstance(value, Tensor)} | {"labels": labels}


def _gap(question: str) -> str:
    """What parts a question from its answer."""
    return " " if question and not question[-1].isspace() else ""


def _ended(text: str, tokenizer: Any) -> str:
    """A text that ends, where the tokenizer does not see to it."""
    ids = tokenizer(text)["input_ids"]
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    return text if ids and ids[-1] in ends else f"{text}{tokenizer.eos_token or ''}"


def tuned(folder: Path, job: TuneDescriber, device: str, report: EventSink, name: str = "describer") -> Path:
    """A captioner tuned for a folder that no plan made, in ``folder/weights/NAME``. Run again it is there, or goes on.

    Raises: SettingsChanged where it was begun with other settings; as ``TuneDescriber.run``.
    """
    job.check()
    context = StepContext(folder, name, device=device, report=report)
    file = context.checkpoints() / "settings.json"
    now = json.loads(json.dumps(stage.settings(job)))
    # What stopped before its first look, at captions that could not be used, binds nobody.
    if file.exists() and (context.weights().exists() or (file.parent / "before.json").exists()):
        before = stage.settings_now(read_json(file, {...: object}, TrainingError, "delete it to begin anew"), job)
        if changed := {
            key: (before.get(key), now.get(key))
            for key in before.keys() | now.keys()
            if before.get(key) != now.get(key)
        }:
            other = f"the folder without {file.parent}"
            if context.weights().exists():
                other = f"the folder as it is with --captioner {context.weights()}, or without {context.weights()} and {file.parent},"
            raise SettingsChanged(f"the captioner of {folder}", changed, other)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, now)
    job.run(context)
    return context.weights()


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
