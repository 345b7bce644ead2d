"""What is known of a data set's classes: names, prompt templates, a context for captions, synonyms. One JSON record a data set.

    {"EuroSAT": {"classes": ["forest", "river"],
                 "templates": ["a centered satellite photo of {}."],
                 "context": "a centered satellite photo of {caption}",
                 "synonyms": {"river": ["stream"]}}}

Every field may be left out. The published list of CLIP's prompts has classes and templates in this shape; where it gives
several names for a class, the first is the name and the others count as synonyms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.captions.classes import read_classes, read_synonyms
from reverie.errors import InputError, UnknownName
from reverie.pairs import CLASS_SLOT
from reverie.store.sources import read_json

CAPTION = "{caption}"  # where a context takes a sentence
PLAIN = "a photo of a {class}."
FIELDS = ("classes", "templates", "context", "synonyms")


@dataclass(frozen=True)
class Domain:
    """One record."""

    classes: tuple[str, ...] = ()  # empty where the record names none
    templates: tuple[str, ...] = (PLAIN,)  # how the task says a class; each holds {class}
    context: str = CAPTION  # how a sentence is said; holds {caption}
    synonyms: Mapping[str, tuple[str, ...]] | None = None


def read_domain(name: str) -> Domain:
    """The record of one data set.

    Args:
        name: FILE.json, or FILE.json:DATASET for a file that holds several.
    Raises: InputError for a file that cannot be read or is not of this shape; UnknownName for a data set that is not in it.
    """
    path, dataset = Path(name), ""
    if not path.is_file() and ":" in name:
        front, _, dataset = name.rpartition(":")
        path = Path(front)
    records = read_json(path, "domains")
    if isinstance(records, dict) and isinstance(records.get("classes", records.get("templates")), list):
        if dataset and dataset.casefold() != path.stem.casefold():
            raise UnknownName(f"data set in {path.name}", dataset, [path.stem])
        records = {dataset or path.stem: records}  # the file is one record
    if not isinstance(records, dict) or not all(isinstance(record, dict) for record in records.values()):
        raise InputError(f"{path} must hold a JSON object: data set -> its {', '.join(FIELDS)}")
    if not dataset and len(records) == 1:
        (dataset,) = records
    if not dataset:
        raise InputError(f"{path} holds {len(records)} data sets; say which: {path}:{next(iter(records), 'NAME')}")
    if dataset not in records:
        raise UnknownName(f"data set in {path.name}", dataset, records)
    return _domain(records[dataset], f"{path.name}, {dataset}")


def context_of(template: str) -> str:
    """What a template puts around a class, put around a sentence: ``a photo of a {class}.`` -> ``a photo of {caption}``.

    The article goes, as sentences bring their own, and so does the full stop.
    """
    return re.sub(rf"(?:\b(?:an?|the) )?{re.escape(CLASS_SLOT)}", CAPTION, template).rstrip(" .")


def in_context(caption: str, context: str) -> str:
    """A caption as the domain says it. What it says of the context already is not said twice."""
    if context == CAPTION:
        return caption
    before, after = context.split(CAPTION)
    bare = caption.rstrip(" .!")  # more words may follow in the same sentence
    return context.replace(CAPTION, bare.removeprefix(before).removesuffix(after))


def check_context(context: str) -> None:
    """Raises InputError for a context that has no place for a sentence, or several."""
    if context.count(CAPTION) != 1:
        raise InputError(f"the context {context!r} must hold {CAPTION} once, where the sentence goes")


def _domain(record: Mapping[str, Any], origin: str) -> Domain:
    if unknown := sorted(set(record) - set(FIELDS)):
        raise UnknownName(f"field in {origin}", unknown[0], FIELDS)
    listed: Any = record.get("classes", [])
    names: list[Any] = (
        [item if isinstance(item, list) else [item] for item in listed] if isinstance(listed, list) else [[]]
    )
    templates = record.get("templates", [])
    if not all(item and all(isinstance(word, str) for word in item) for item in names):
        raise InputError(f"{origin}: classes must be a list of names, or of lists of names that mean the same")
    if not isinstance(templates, list) or not all(isinstance(item, str) for item in templates):
        raise InputError(f"{origin}: templates must be a list of texts")
    templates = [template.replace("{}", CLASS_SLOT) for template in templates]
    if bad := [template for template in templates if CLASS_SLOT not in template]:
        raise InputError(f"{origin}: the template {bad[0]!r} has no {{}} for the class name")
    context = record.get("context", context_of(templates[0]) if templates else CAPTION)
    if not isinstance(context, str):
        raise InputError(f"{origin}: context must be one text")
    check_context(context)
    classes = read_classes([item[0] for item in names]) if names else ()
    given = record.get("synonyms", {})
    if not isinstance(given, dict):
        raise InputError(f"{origin}: synonyms must be an object: class name -> list of words that also count")
    given = {item[0]: item[1:] for item in names if len(item) > 1} | given
    return Domain(classes, tuple(templates) or (PLAIN,), context, read_synonyms(given, classes or tuple(given)) or None)
