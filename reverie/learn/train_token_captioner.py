"""The job from two stores of pairs to a captioner folder of Synth².

Source: arXiv:2403.07750, whose two versions use painted pairs beside human ones, or after them: the modes ``augment`` and ``finetune``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reverie import seeds
from reverie.datasets.captioned import check_captioned, load_captioned
from reverie.errors import InputError
from reverie.learn.fit import Fit, FitSpeed, fit
from reverie.learn.manifest import (
    control_of,
    manifest_of,
    read_manifest,
    refuse_test_photos,
    require_control,
    write_manifest,
)
from reverie.learn.synth2 import Synth2, begin_ids, check_language
from reverie.models.captioner import ABOUT
from reverie.models.pretrained import load_tokenizer_of
from reverie.models.token_captioner import KIND
from reverie.models.tokenizer import check_tokenizer, open_tokenizer
from reverie.nets.token_captioner import LookShape
from reverie.stage import Job, StepContext
from reverie.store import tables
from reverie.store.files import atomic_folder
from reverie.store.token_batches import Mixed, TokenPairs, check_share, read_token_pairs

PAINTED = "origin = 'painted'"


@dataclass(frozen=True)
class TrainTokenCaptioner(Job):
    """Human pairs, painted pairs, or both -> a captioner in ``weights/STEP/``.

    ``augment``: every batch holds the share ``rho`` of painted pairs. ``finetune``: the first ``real_first`` of the steps see human
    pairs alone, the rest ``rho`` painted ones (1: no more human ones; less replays them). One rate falls over all steps.
    """

    language_model: str = "builtin:writer"  # whose words it says: any causal language model
    tokenizer: str = "builtin:tokenizer"  # of images: any VQModel
    real: Path | None = None  # store of human pairs, as `reverie import` makes it; None: none
    painted: Path | None = None  # run or store of painted pairs; None: this run
    where_real: str = ""  # Lance SQL filter of human pairs
    where_painted: str = PAINTED
    num_real: int = 0  # human pairs to learn from; 0 = all
    num_painted: int = 0  # painted ones; 0 = all
    mode: Literal["augment", "finetune"] = "augment"
    rho: float = 0.5
    real_first: float = 0.5  # of finetune
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
    painter: str = ""  # folder of the painter, which says which pairs it learned from
    controlled: bool = False  # refuse a comparison that is not
    test_photos: str = ""  # that no human pair may show; see datasets/captioned.py
    test_images: Path | None = None  # folder of them, where they are a file of captions
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.rho)
        if self.mode not in ("augment", "finetune"):
            raise InputError(f"a mode {self.mode!r} is not known; use augment or finetune")
        if not 0 <= self.real_first <= 1:
            raise InputError(
                f"real_first {self.real_first} is the share of steps before the first painted pair, from 0 to 1"
            )
        if self.needs_real and self.real is None:
            raise InputError("without a store of human pairs all pairs are painted: give --pairs, or --rho 1")
        self._fit()
        self.learner()

    @property
    def needs_real(self) -> bool:
        """Whether any batch holds human pairs."""
        return self.rho < 1 or (self.mode == "finetune" and self.real_first > 0)

    def learner(self) -> Synth2:
        """What learns."""
        return Synth2(self.language_model, self.tokenizer, self.size_px, self.shape, self.prompt, self.painted_weight)

    def check(self) -> None:
        """Raises InputError under several processes, or for photos or pairs that are not there; ModelError, UnknownName for a model."""
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise InputError("a captioner is trained by one process; start reverie without accelerate launch")
        check_language(self.language_model)
        check_tokenizer(self.tokenizer)
        for folder in (self.real, self.painted):
            if folder is not None and not tables.exists(folder / "pairs.lance"):
                raise InputError(f"{folder} holds no pairs; make them with: reverie import, or reverie make")
        if self.test_photos:
            check_captioned(self.test_photos, self.test_images)

    def run(self, context: StepContext) -> None:
        """Read, train, and put the folder in place last.

        Raises: InputError for pairs that cannot be learned from or show test photos, or a comparison that should be controlled and is not; what ``fit`` raises.
        """
        if context.weights().exists():
            return
        tokenizer = open_tokenizer(self.tokenizer, context.device)
        book, images = (
            (tokenizer.codebook_name, tokenizer.num_codes, tokenizer.grid(self.size_px)),
            self.path == "pixels",
        )
        real = painted = None
        if self.needs_real and self.real is not None:
            real = read_token_pairs(self.real / "pairs.lance", *book, self.where_real or None, images).some(
                self.num_real
            )
            if self.test_photos:
                photos = load_captioned(self.test_photos, self.test_images)
                refuse_test_photos(real, photos, tokenizer, self.size_px)
        if self.rho > 0:
            table = self.painted / "pairs.lance" if self.painted else context.pairs
            painted = read_token_pairs(table, *book, self.where_painted or None, images).some(self.num_painted)
        learned = manifest_of(real) if real else None
        control = control_of(self.painter, read_manifest(self.painter) if self.painter else None, learned)
        if self.controlled and painted:
            require_control(control)
        batches = self.batches(real, painted, context.seed)
        learner = self.learner()
        texts = [text for source in (real, painted) if source for text in source.texts]
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
        shown = batches.num_painted(self.steps)
        trained = {
            "real_pairs": len(real or ()), "painted_pairs": len(painted or ()), "mode": self.mode, "rho": self.rho, "path": self.path,
            "real_seen": self.steps * self.batch - shown, "painted_seen": shown,
        }  # fmt: skip
        words = load_tokenizer_of(self.language_model)
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
            if learned:
                write_manifest(learned, temporary)
        parameters = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
        context.report("trained", control=control.label, parameters=parameters, **trained, **losses)

    def batches(self, real: TokenPairs | None, painted: TokenPairs | None, run_seed: int) -> Mixed:
        """What it learns from, batch by batch."""
        after = round(self.real_first * self.steps) if self.mode == "finetune" else 0
        seed = seeds.derive("batches", run_seed, self.seed)
        return Mixed(real, painted, self.batch, self.rho, seed, after, self.size_px if self.path == "pixels" else None)

    def _fit(self) -> Fit:
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} captions cannot be; give 1 or more")
        return Fit(
            self.steps, self.lr, self.warmup_steps, weight_decay=self.weight_decay, betas=(0.9, 0.95), clip=1.0,
            speed=FitSpeed(checkpoint_every_s=60),
        )  # fmt: skip
