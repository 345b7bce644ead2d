"""The job from two stores of pairs to a captioner folder of Synth².

Source: arXiv:2403.07750, whose two versions use painted pairs beside human ones, or after them: the second begins at the weights of
another step, ``start``, and has a learning rate of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from reverie import seeds
from reverie.datasets.captioned import check_captioned, load_captioned
from reverie.datasets.few_shot import shots_store
from reverie.errors import InputError, ModelError
from reverie.learn.fit import Fit, FitSpeed, fit, refuse_several
from reverie.learn.manifest import (
    control_of,
    joined,
    manifest_of_pairs,
    read_manifest,
    real_among,
    refuse_test_photos,
    require_control,
    write_manifest,
)
from reverie.learn.synth2 import Synth2, begin_ids, check_language, check_room
from reverie.models.captioner import ABOUT
from reverie.models.names import locate
from reverie.models.pretrained import load_config, load_tokenizer_of
from reverie.models.token_captioner import KIND
from reverie.models.tokenizer import Tokenizer, check_tokenizer, open_tokenizer, square
from reverie.nets.token_captioner import LookShape
from reverie.recaption.mix import Mix
from reverie.stage import Job, StepContext, Trial, of_step
from reverie.store import tables
from reverie.store.files import atomic_folder
from reverie.store.json_files import read_json
from reverie.store.pictures import open_picture
from reverie.store.token_batches import Mixed, TokenPairs, check_share, read_token_pairs

PAINTED = "origin = 'painted'"
Book = tuple[str, int, tuple[int, int]]
"""Name of a codebook, number of its codes, and the grid of an image."""
LOOKED_AT = 512  # painted pairs whose pictures are turned into ids again


@dataclass(frozen=True)
class TrainTokenCaptioner(Job):
    """Human pairs, painted pairs, or both -> a captioner in ``weights/STEP/``. Every batch holds the share ``rho`` of painted pairs.

    A model may be one that a step of the run trains, as step:NAME; a store, the name of the step that took its pairs.
    """

    beside: ClassVar[bool] = True

    language_model: str = "builtin:writer"  # whose words it says: any causal language model
    tokenizer: str = "builtin:tokenizer"  # of images: any VQModel
    real: Path | str | None = None  # store of human pairs, as `reverie import` makes it; None: none
    painted: Path | str | None = None  # run or store of painted pairs; None: this run
    where_real: str = ""  # Lance SQL filter of human pairs
    where_painted: str = PAINTED
    num_real: int = 0  # human pairs to learn from; 0 = all
    num_painted: int = 0  # painted ones; 0 = all
    rho: float = 0.5
    start: str | None = None  # step whose captioner it goes on from
    path: Literal["tokens", "pixels"] = "tokens"  # pixels: pictures are read and turned into ids at every step
    size_px: int = 64  # side of the pictures that ids are of
    shape: LookShape = field(default_factory=LookShape)
    prompt: str = ""  # that every sentence goes on from
    painted_weight: float = 1.0  # in the loss; a human pair has 1
    steps: int = 1000
    batch: int = 64
    lr: float = 3e-4
    warmup_steps: int = 50
    weight_decay: float = 0.05
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    painter: str = ""  # folder of the painter, which says which pairs it learned from
    controlled: bool = False  # refuse a comparison that is not
    test_photos: str = ""  # that no human pair may show; see datasets/captioned.py
    test_images: Path | None = None  # folder of them, where they are a file of captions
    seed: int = 0
    mix: Mix | None = (
        None  # which caption a human pair has at a visit, among what captioners wrote beside it; its own when None
    )

    def __post_init__(self) -> None:
        check_share(self.rho)
        if self.needs_real and self.real is None:
            raise InputError("without a store of human pairs all pairs are painted: give --pairs, or --rho 1")
        self._fit()
        self.learner()

    @property
    def needs_real(self) -> bool:
        """Whether any batch holds human pairs."""
        return self.rho < 1

    def learner(self, context: StepContext | None = None) -> Synth2:
        """What learns, with the models of a run's steps where the run is given."""
        names = self.language_model, self.tokenizer
        if context is not None:
            names = context.model(self.language_model), context.model(self.tokenizer)
        start = context.weights(self.start) if context is not None and self.start else None
        return Synth2(*names, self.size_px, self.shape, self.prompt, self.painted_weight, start)

    def check(self) -> None:
        """Raises InputError under several processes, or for photos or pairs that are not there; ModelError, UnknownName for a model."""
        refuse_several("a captioner is trained")
        if not of_step(self.language_model):
            check_language(self.language_model)
            check_room(load_config(locate(self.language_model)), 1, self.shape)
        if not of_step(self.tokenizer):
            check_tokenizer(self.tokenizer)
        for folder in (self.real, self.painted):
            if isinstance(folder, Path) and not tables.exists(folder / "pairs.lance"):
                raise InputError(f"{folder} holds no pairs; make them with: reverie import, or reverie make")
        if self.test_photos:
            check_captioned(self.test_photos, self.test_images)

    def run(self, context: StepContext) -> None:
        """Read, train, and put the folder in place last.

        Raises: InputError for pairs that cannot be learned from or show test photos, or a comparison that should be controlled and is not; what ``fit`` raises.
        """
        if context.weights().exists():
            return
        tokenizer = open_tokenizer(context.model(self.tokenizer), context.device)
        book, images = (
            (tokenizer.codebook_name, tokenizer.num_codes, tokenizer.grid(self.size_px)),
            self.path == "pixels",
        )
        real = painted = beside = None
        if self.real is not None:
            beside = self._human(context, shots_store(context, self.real), book, images)
            beside = beside.some(self.num_real)
            real = beside if self.needs_real else None
            if real and self.test_photos:
                photos = load_captioned(self.test_photos, self.test_images)
                refuse_test_photos(real, photos, tokenizer, self.size_px)
        if self.rho > 0:
            table = shots_store(context, self.painted) if self.painted else context.pairs
            painted = read_token_pairs(table, *book, self.where_painted or None, images).some(self.num_painted)
        learned = manifest_of_pairs(beside) if beside else None
        # Photos may stand in the place of paintings; those that are not among the human pairs are more of them.
        if painted and (photos_in := real_among(painted) - set(beside.ids if beside else ())):
            more = manifest_of_pairs(painted, photos_in)
            learned = joined(learned, more) if learned else more
        painter = context.model(self.painter)
        named = Path(painter).name if Path(painter).is_dir() else painter  # no path reaches a record
        control = control_of(named, read_manifest(painter) if painter else None, learned, real is None)
        if self.controlled and painted:
            require_control(control)
        batches = self.batches(real, painted, context.seed)
        learner = self.learner(context)
        texts = [text for source in (real, painted) if source for text in source.all_texts]
        if len(set(texts)) < 2:
            raise InputError("a captioner needs two different sentences or more to learn from")
        if cut := learner.num_cut(texts):
            context.report(
                "warning",
                text=f"{cut:,} of {len(texts):,} sentences are cut at {self.shape.max_tokens} tokens (--max-tokens)",
            )
        seed = seeds.derive("captioner", context.seed, self.seed)
        net, losses = fit(
            learner,
            batches,
            self._fit(),
            context.checkpoints(),
            seed=seed,
            device=context.device,
            report=context.report,
        )
        shown, before = batches.num_painted(self.steps), _seen_before(learner.start)
        trained: dict[str, Any] = {
            "real_pairs": len(real or ()), "painted_pairs": len(painted or ()), "mode": "finetune" if self.start else "augment",
            "rho": self.rho, "path": self.path, "steps": self.steps + before["steps"],
            "real_seen": self.steps * self.batch - shown + before["real_seen"], "painted_seen": shown + before["painted_seen"],
        }  # fmt: skip
        if images and painted:
            trained["round_trip"] = round_trip(painted, tokenizer, self.size_px)
        words = load_tokenizer_of(learner.language_model)
        with atomic_folder(context.weights()) as temporary:
            learner.save(net, temporary)
            about = {
                "kind": KIND,
                "size_px": self.size_px,
                "begin": begin_ids(words, self.prompt),
                "end": int(words.eos_token_id),
                "codebook": tokenizer.codebook_name,
                "shape": dataclasses.asdict(self.shape),
                "control": dataclasses.asdict(control),
                "trained": trained,
            }
            (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
            if learned and real:
                write_manifest(learned, temporary)
        parameters = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
        context.report("trained", control=control.label, parameters=parameters, **trained, **losses)

    def trial(self, steps: int, images: Callable[[str], int]) -> Trial | None:
        """So few steps."""
        return Trial(dataclasses.replace(self, steps=min(steps, self.steps), controlled=False), self.steps)

    def _human(self, context: StepContext, table: Path, book: Book, images: bool) -> TokenPairs:
        """Human pairs, with the captions of the mix where there is one."""
        if self.mix is None:
            return read_token_pairs(table, *book, self.where_real or None, images)
        own = self.where_real or "status = 'ok'"
        where = self.mix.usable(table, own)
        if bare := self.mix.bare(table, own, where):
            context.report("warning", text=bare)
        return read_token_pairs(table, *book, where, images, self.mix)

    def batches(self, real: TokenPairs | None, painted: TokenPairs | None, run_seed: int) -> Mixed:
        """What it learns from, batch by batch."""
        seed = seeds.derive("batches", run_seed, self.seed, *([self.start] if self.start else []))
        return Mixed(real, painted, self.batch, self.rho, seed, self.size_px if self.path == "pixels" else None)

    def _fit(self) -> Fit:
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} captions cannot be; give 1 or more")
        return Fit(
            self.steps, self.lr, self.warmup_steps, weight_decay=self.weight_decay, betas=(0.9, 0.95), clip=1.0,
            precision=self.precision, speed=FitSpeed(checkpoint_every_s=60),
        )  # fmt: skip


def _seen_before(start: Path | str | None) -> dict[str, int]:
    """What the captioner that a training goes on from has seen."""
    shape = {"trained": {"steps": int, "real_seen": int, "painted_seen": int}}
    if start is None:
        return dict.fromkeys(shape["trained"], 0)
    told = read_json(Path(start) / ABOUT, shape, ModelError, "train it again")["trained"]
    return {name: int(told[name]) for name in shape["trained"]}


def round_trip(pairs: TokenPairs, tokenizer: Tokenizer, size_px: int) -> float | None:
    """Share of ids of painted pairs that come out again when their decoded pictures are encoded; None for pairs without ids or pictures."""
    same = total = 0
    columns = ["pair_id", "image", "tokens"]
    for part in tables.scan(pairs.path, columns, "image is not null and tokens is not null"):
        rows: list[dict[str, Any]] = part.to_pylist()[: LOOKED_AT - total]
        pictures = [square(open_picture(row["image"], f"pair {row['pair_id']}"), size_px) for row in rows]
        ids = tokenizer.ids(np.stack(pictures)).reshape(len(rows), -1)
        same += int((ids == np.array([row["tokens"] for row in rows])).sum())
        total += len(rows)
        if total >= LOOKED_AT:
            break
    places = int(np.prod(tokenizer.grid(size_px)))
    return round(same / (total * places), 4) if total else None
