"""How many real photos painted images are worth: a small network trained from scratch on different numbers of either, and on both.

    He et al., Is synthetic data from generative models ready for image recognition?, ICLR 2023, arXiv:2210.07574, table 4

    reverie run scratch_efficiency                                            (the small world, on a CPU)
    reverie run scratch_efficiency --classes classes.txt --painter PAINTER --eval-data photos/ --painted-per-class 100 500 2000 \
        --real-per-class 100 500 2000 --mixed-per-class 10 50 200 --out runs/mine

The paper's: 50,000 painted images of CIFAR-100 give 28.74 %, about what 9,500 photos give. Ours: docs/recipes/scratch_efficiency.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reverie.arms import Arm
from reverie.captions.classes import read_classes
from reverie.errors import InputError
from reverie.ranges import check_min
from reverie.recipes.options import ClassCaptions, Network, Painting, Precision, SmallScale, amount, clip_for, usable_of
from reverie.run.plan import Plan, Step
from reverie.settings import flat


@dataclass(frozen=True)
class ScratchConfig:
    """Settings of networks from scratch on painted images and on photos."""

    scale: SmallScale = "tiny"  # preset of settings that are not given; tiny runs on a CPU in minutes
    text: ClassCaptions = ClassCaptions()
    per_class: int = 5  # captions for each class, where they are written from class names
    paint: Painting = Painting(per_caption=2)
    # folder of another run, whose painted images are used; they are painted when absent
    images_from: Path | None = None
    # photos to measure on; a folder with train and test, or smallworld:CAMERA:TRAIN:TEST; also those to train on
    eval_data: str | None = "smallworld:street:640:640"
    painted_per_class: tuple[int, ...] = (2, 10)  # painted images of each class to train on; an arm for each number
    real_per_class: tuple[int, ...] = (2, 10)  # photos of each class to train on; an arm for each number
    # photos of each class to train on together with all painted images, and alone, an arm for each number
    mixed_per_class: tuple[int, ...] = (2,)
    # share of photos in a batch where they are mixed with painted images; 0 = as many as there are of them
    real_share: float = 0.5

    net: Network = Network(train_steps=150, lr=3e-3)
    batch_size: int = 64  # examples in a step of training
    precision: Precision = "fp32"  # number format of training
    seeds: tuple[int, ...] = (0, 1, 2)  # random seeds of training; every arm is trained once with each
    unit_size: int = 32  # captions in one commit
    seed: int = 0  # random seed of the run; each training has one of its own

    def following(self, usual: ScratchConfig) -> dict[str, Any]:
        """The small world's photos are of its own classes; as many captions as the largest arm needs."""
        return {"per_class": self._per_class()} | {"eval_data": None if self.text.classes else usual.eval_data}

    def _per_class(self) -> int:
        """Captions of each class. Slips are told later."""
        try:
            return -(-self.max_painted // self.paint.per_caption)
        except (ArithmeticError, ValueError):
            return self.per_class

    @property
    def max_painted(self) -> int:
        """Painted images of each class, in the arm with most of them."""
        return max(self.painted_per_class)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        from reverie.smallworld.scene import class_names

        return read_classes(self.text.classes or class_names())

    def check(self) -> None:
        """Raises InputError for settings that do not go together."""
        kinds = (
            ("--painted-per-class", self.painted_per_class),
            ("--real-per-class", self.real_per_class),
            ("--mixed-per-class", self.mixed_per_class),
        )
        for flag, numbers in kinds:
            if any(number < 1 for number in numbers) or len(set(numbers)) < len(numbers):
                raise InputError(f"{flag} takes different numbers of images of each class, 1 or more")
        if not self.painted_per_class or len({*self.real_per_class, *self.mixed_per_class}) < 2:
            raise InputError(
                "give --painted-per-class at least one number, and --real-per-class (with --mixed-per-class) two, "
                "or there is no curve"
            )
        if self.eval_data is None:
            raise InputError("--classes needs --eval-data FOLDER with train and test photos of them")
        if not self.seeds:
            raise InputError("give at least one seed")
        if len(self.names) < 2:
            raise InputError("a classifier needs two classes or more to tell apart")
        check_min(1, per_caption=self.paint.per_caption)
        self.net.check()


TINY = ScratchConfig()
SCALES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        scale="small",
        per_class=50,
        painted_per_class=(10, 50, 200),
        real_per_class=(10, 50, 200),
        mixed_per_class=(10, 50),
        paint=Painting(),
        net=Network(train_steps=3000),
        eval_data="smallworld:street:12800:6400",
        unit_size=64,
    ),
}


def arms(config: ScratchConfig = TINY) -> tuple[Arm, ...]:
    """What is trained beside what, with every seed."""
    found: list[Arm] = []
    real, mixed = sorted({*config.real_per_class, *config.mixed_per_class}), sorted(config.mixed_per_class)
    max_painted = config.max_painted
    for number in config.seeds:
        found += [_arm(number, painted=n) for n in sorted(config.painted_per_class)]
        found += [_arm(number, real=n) for n in real]
        found += [_arm(number, real=n, painted=max_painted) for n in mixed]
    return tuple(found)


def _arm(seed: int, *, real: int = 0, painted: int = 0) -> Arm:
    """Training on so many images of each class."""
    amounts = {"real": real, "painted": painted}
    some = {kind: number for kind, number in amounts.items() if number}
    label = f"{' and '.join(f'{number} {kind}' for kind, number in some.items())} a class"
    return Arm("-".join(f"{kind}-{number}" for kind, number in some.items()), label, seed, factors=amounts)


def scratch_efficiency(config: ScratchConfig = TINY, arms_: tuple[Arm, ...] | None = None) -> Plan:
    """Class names -> images -> a network from scratch on n painted images, on n real photos, and on both -> a page.

    Example: reverie run scratch_efficiency --painted-per-class 10 50 --real-per-class 10 50 --mixed-per-class 10 --out runs/scratch

    Args:
        arms_: what is trained, in place of ``arms(config)``.
    """
    from reverie.evaluate.data_equivalence import RealImageEquivalent
    from reverie.evaluate.fine_tuning import FineTune
    from reverie.learn.fit import Fit
    from reverie.report.page import WritePage

    config.check()
    making = _making(config) if config.images_from is None else []
    notes: tuple[str, ...] = ()
    if making:
        said = amount(making[0].stage, len(config.names), config.paint.per_caption)
        notes = (f"{said}; only blank ones are dropped",)
    net = config.net
    assert config.eval_data is not None
    training = FineTune(
        arms(config) if arms_ is None else arms_,
        config.eval_data,
        painted=config.images_from,
        classes=config.names,
        where=usable_of(config.images_from) if config.images_from else "kept",
        backbone=net.backbone,
        image_size=net.view_px,
        size_px=net.image_px,
        fit=Fit(
            net.train_steps,
            net.lr,
            int(net.warmup * net.train_steps),
            weight_decay=0.05,
            betas=(0.9, 0.999),
            precision=config.precision,
        ),
        batch=config.batch_size,
        real_share=config.real_share,
        min_area=0.8,
        held_out=0.0,  # every image that an arm counts is trained on
    )
    return Plan(
        recipe="scratch_efficiency",
        seed=config.seed,
        unit_size=config.unit_size,
        arguments=flat(config),
        steps=(
            *making,
            Step("scratch", training, inputs=("keep",) if making else ()),
            Step("worth", RealImageEquivalent("scratch"), inputs=("scratch",)),
            Step("page", WritePage(), inputs=("worth",)),
        ),
        notes=notes,
    )


def _making(config: ScratchConfig) -> list[Step]:
    """Captions, images, and the choice of those to learn from."""
    from reverie.filters.blank import Blank
    from reverie.filters.keep import Keep

    clip_for(config.paint.painter, None)
    copies, max_painted, names = config.paint.per_caption, config.max_painted, config.names
    first = config.text.stage(config.per_class, names if config.text.classes else None, repeat=True)
    if first.count * copies < max_painted * len(names):
        raise InputError(
            f"{first.count} captions of --per-caption {copies} make fewer than {max_painted} images of each of {len(names)} classes"
        )
    return [
        Step("captions", first),
        Step("paint", config.paint.stage(), inputs=("captions",)),
        Step("blank", Blank(), inputs=("paint",)),
        Step("keep", Keep("status = 'ok' and blank = false"), inputs=("paint", "blank")),
    ]
