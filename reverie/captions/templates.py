"""Class names and sentence templates -> captions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa

from reverie import pairs
from reverie.captions.checks import check
from reverie.captions.classes import read_classes, read_list
from reverie.captions.domains import CAPTION, check_context, in_context
from reverie.errors import InputError
from reverie.pairs import CLASS_SLOT
from reverie.stage import SourceStage, StepContext, Worker


@dataclass(frozen=True)
class FillTemplates(SourceStage):
    """Every class in distinct templates, in turns: caption n is about class n modulo the number of classes."""

    writes: ClassVar[Literal["captions"]] = "captions"

    classes: tuple[str, ...] | Path  # names, or a file with one a line or a JSON list
    templates: tuple[str, ...] | Path = ("a photo of a {class}.",)  # each holds {class}
    per_class: int = 1  # captions wanted of each class; at most one for each template, unless these repeat
    repeat: bool = False  # use templates again where they are fewer than the captions wanted: more images of each
    context: str = CAPTION  # how a sentence is said in the domain: "a centered satellite photo of {caption}"

    def __post_init__(self) -> None:
        check_context(self.context)

    @property
    def count(self) -> int:
        """Captions that will be made: per_class for each class, or as many as there are templates."""
        return len(self._classes) * (self.per_class if self.repeat else min(self.per_class, self.num_templates))

    @property
    def num_templates(self) -> int:
        """How many there are."""
        return len(self._templates)

    def open(self, context: StepContext) -> Worker:
        """Read and check the lists. Raises InputError."""
        classes, templates = self._classes, self._templates
        if self.per_class > len(templates) and not self.repeat:
            context.report(
                "warning",
                text=f"{self.per_class} captions for each class were asked, but {len(templates)} templates make only "
                f"{len(templates)} distinct ones; making {self.count} captions in all",
            )

        def write(wanted: pa.Table) -> pa.Table:
            rows = []
            for unit, position in zip(wanted["unit"].to_pylist(), wanted["position"].to_pylist(), strict=True):
                turn, number = divmod(position, len(classes))
                # Shifted by the class, so that a short run does not use one template for all.
                template = templates[(turn + number) % len(templates)]
                text, reason = check(in_context(template.replace(CLASS_SLOT, classes[number]), self.context))
                rows.append(
                    {
                        "caption_id": pairs.caption_id(context.seed, "template", position),
                        "unit": unit,
                        "text": text,
                        "label": classes[number],
                        "source": "template",
                        "prompt": template,
                        "status": pairs.FAILED if reason else pairs.OK,
                        "reason": reason,
                    }
                )
            return pairs.table(rows, pairs.CAPTIONS)

        return write

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return read_classes(self.classes)

    @cached_property
    def _templates(self) -> tuple[str, ...]:
        templates = read_list(self.templates, "templates") if isinstance(self.templates, Path) else list(self.templates)
        if not templates:
            raise InputError("no templates; give at least one sentence that holds {class}")
        for template in templates:
            if CLASS_SLOT not in template:
                raise InputError(f"the template {template!r} has no {CLASS_SLOT} in it")
        if len(set(templates)) < len(templates):
            twice = next(template for template, number in Counter(templates).items() if number > 1)
            raise InputError(f"the template {twice!r} is given twice")
        return tuple(templates)
