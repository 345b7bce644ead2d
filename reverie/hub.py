"""Uploads of weights and data sets to the Hub, with a card that says what they were made from.

A card (README.md) names the recipe, its settings, what came of it in rows and in measured numbers, every model that had a part in it
with its licence, and known limits: what is made with a model may be bound by the licence of that model, which nobody can see
from the weights.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from reverie.errors import FolderInUse, InputError
from reverie.models.names import HUB_ID
from reverie.pairs import DROPPED, FAILED, OK
from reverie.run.plan import read_plan
from reverie.store import results, tables
from reverie.store.files import atomic_file, atomic_folder
from reverie.store.sources import harmless

Kind = Literal["model", "dataset"]
BUILTIN_LICENCE = "Apache-2.0"
UNSAID = "not said; see where it comes from"
MODEL_FIELDS = (  # of stages and learners, where they name a model
    "model", "clip", "encoder", "painter", "writer", "detector", "words", "backbone", "tokenizer", "start", "bert", "language_model",
)  # fmt: skip
SCORES = ("clip_score", "clip_confidence")  # columns that say how well a picture fits its words
EVERY_OK = f"status = '{OK}'"  # the filter of an export that was given none
LONGEST = 120  # characters of a reason
MAKES_PAIRS = ("source", "paint", "score", "select")  # roles of steps
NUM_REASONS = 5  # why rows are not there, commonest first
MADE_WITH = {"pairs.lance": "painter", "captions.lance": "writer"}  # columns that name a model and its revision


def push(make: Callable[[Path], object], repo_id: str, kind: Kind, private: bool, api: Any = None) -> str:
    """Upload the folder that ``make`` makes. Returns: the address. Raises: InputError if the Hub refuses."""
    if not HUB_ID.fullmatch(repo_id) or "/" not in repo_id:
        raise InputError(f"{repo_id!r} is no name on the Hub; give OWNER/NAME")
    import huggingface_hub

    api = api or huggingface_hub.HfApi()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "upload"
        make(folder)
        try:
            address = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, repo_type=kind, folder_path=str(folder), commit_message="Made with reverie"
            )
        except Exception as error:  # of network and Hub, which have no class in common
            raise InputError(f"cannot push to {repo_id}: {_line(error)}") from error
    return str(address)


def save_weights(weights: Path, run: Path, step: str, folder: Path) -> Path:
    """Copy a folder of weights to a new one and put a card beside them. Raises FolderInUse."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderInUse(f"{folder} holds something already; give a new folder")
    with atomic_folder(folder.resolve()) as temporary:
        shutil.copytree(weights, temporary, dirs_exist_ok=True)
        write_card(temporary, run, step=step)
    return folder


def write_card(
    folder: Path, run: Path, step: str | None = None, data: int | None = None, where: str | None = None
) -> None:
    """Write README.md: front matter as the Hub reads it, then settings, numbers and models.

    Args:
        run: folder of the run, or of an import, that it is made from.
        step: whose weights these are.
        data: number of pairs, for a data set.
        where: filter that these pairs fit.
    """
    record = read_plan(run) if (run / "plan.json").exists() else None
    about = f"recipe {_code(record['recipe'])}" if record else "an import of other people's data"
    head: dict[str, object] = {"tags": ["reverie", "synthetic"] if record else ["reverie"]}
    if step is not None:
        head |= {"library_name": "transformers" if (folder / "config.json").is_file() else "reverie"}
        lines = [f"# {_as_text(step)}", "", f"Weights of the step {_code(step)} of {about}, made with reverie."]
    else:
        lines = [
            "# Image-text pairs",
            "",
            f"{data or 0:,} pairs of {about}" + (f", those with {_code(where)}" if where else "") + ".",
        ]
    used = models_used(run, step)
    lines += ["", "## Models used", "", *_models_table(used)]
    lines += ["", "Whoever uses this is bound by their licences as well.", ""]
    if counts := list(_counts(run)):
        lines += [
            "## Counts",
            "",
            *(["Of the whole folder, before that filter.", ""] if where and where != EVERY_OK else []),
            "| rows | made | ok | dropped | failed | selected |",
            "|---|---|---|---|---|---|",
            *counts,
            "",
        ]
    if reasons := list(_reasons(run)):
        lines += ["Not ok, or not selected, most of all because:", "", *reasons, ""]
    if rows := list(_numbers(run)):
        lines += [
            "## Numbers",
            "",
            "| step | what | metric | split | mean | seeds |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    if controls := sorted({str(found) for row in results.read(run / "results.jsonl") if (found := row.get("control"))}):
        lines += ["## Controlled or not", "", *(f"- {_as_text(_public(told), None)}" for told in controls), ""]
    lines += ["## Known limits", "", *(f"- {limit}" for limit in _limits(run, used, where, step)), ""]
    if record:
        settings = [item["settings"] for item in record["steps"] if item["name"] == step]
        shown = {"recipe": record["recipe"], "arguments": _public(record["arguments"]), "seed": record["seed"]}
        shown |= {"step": _public(settings[0])} if settings else {}
        lines += ["## Settings", "", "```json", harmless(json.dumps(shown, indent=1, ensure_ascii=False)), "```", ""]
        versions = record.get("versions", {})
        lines += [
            "Made with " + ", ".join(_as_text(f"{name} {version}") for name, version in versions.items()) + ".",
            "",
        ]
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items())  # JSON is YAML
    with atomic_file(folder / "README.md") as partial:
        partial.write_text(f"---\n{front}---\n\n" + "\n".join(lines), encoding="utf-8")


def models_used(run: Path, step: str | None = None) -> list[str]:
    """Names of models that had a part in a run, or in one step and all that it reads, with revisions where rows have them."""
    found: set[str] = set()
    steps = read_plan(run)["steps"] if (run / "plan.json").exists() else []
    wanted = {step} if step is not None else {item["name"] for item in steps}
    for item in reversed(steps):
        if item["name"] in wanted:
            wanted.update(item["inputs"])
            found.update(_named(item["settings"]))
    pairs = run / "pairs.lance"
    columns = tables.column_names(pairs) if tables.exists(pairs) else []
    captions = [
        f"{name.removesuffix('_flags')}_by" for name in columns if name.endswith("_flags")
    ]  # of recaption/describe.py
    for name, column in (*MADE_WITH.items(), *(("pairs.lance", each) for each in captions)):
        if tables.exists(run / name) and column in tables.column_names(run / name):
            for part in tables.scan(run / name, [column], f"{column} is not null"):
                for told in part[column].unique().to_pylist():
                    model = told.partition(", ")[0]  # what a captioner was asked for comes after it
                    found.discard(model.rpartition("@")[0])
                    found.add(model)
    return sorted(found)


def licence(model: str) -> str:
    """The licence of a model, as its card says; a card in the Hub's cache or a folder is read, nothing is asked of a network."""
    name = model.partition("@")[0]
    if name.startswith("builtin:"):
        return BUILTIN_LICENCE
    card = Path(name) / "README.md"
    if not card.is_file() and HUB_ID.fullmatch(name):
        import huggingface_hub

        with contextlib.suppress(ValueError):  # for what looks like a name and is none on the Hub
            cached = huggingface_hub.try_to_load_from_cache(name, "README.md")
            card = Path(cached) if isinstance(cached, str) else card
    if card.is_file() and (front := re.match(r"---\n(.*?)\n---", card.read_text("utf-8", errors="replace"), re.DOTALL)):
        said = dict(re.findall(r"^(license|license_name):\s*[\"']?([\w.+-]+)", front[1], re.MULTILINE))
        return str(said.get("license_name") or said.get("license") or UNSAID)
    return UNSAID


def _models_table(models: list[str]) -> Iterator[str]:
    if not models:
        yield "None."
        return
    yield from ("| model | licence |", "|---|---|")
    for model in models:
        yield f"| {_as_text(str(_public(model)))} | {licence(model)} |"


def _named(settings: Any, field: str = "") -> Iterator[str]:
    """Model names among the settings of a step, at any depth."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _named(value, key)
    elif isinstance(settings, list):
        for value in settings:
            yield from _named(value, field)
    elif isinstance(settings, str) and (
        re.fullmatch(r"builtin:[\w-]+", settings)
        or (field in MODEL_FIELDS and "/" in settings and HUB_ID.fullmatch(settings))
    ):
        yield settings


def _numbers(run: Path) -> Iterator[str]:
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    labels: dict[str, str] = {}
    for record in results.read(run / "results.jsonl"):
        labels.setdefault(record.arm, record.label)
        if record.value is not None:
            groups.setdefault((record.step, record.arm, record.metric, record.split), []).append(record.value)
    for (step, arm, metric, split), values in groups.items():
        yield f"| {_as_text(step)} | {_as_text(labels[arm])} | {_as_text(metric)} | {_as_text(split)} | {statistics.fmean(values):.4g} | {len(values)} |"


def _counts(run: Path) -> Iterator[str]:
    """A line for each table: how many rows became what."""
    for name in ("captions", "pairs"):
        path = run / f"{name}.lance"
        if not tables.exists(path):
            continue
        filters = [None, *(f"status = '{status}'" for status in (OK, DROPPED, FAILED))]
        if "kept" in tables.column_names(path):
            filters.append(f"status = '{OK}' and kept")
        numbers = [f"{tables.count(path, where):,}" for where in filters] + [""] * (5 - len(filters))
        yield f"| {name} | {' | '.join(numbers)} |"


def _reasons(run: Path) -> Iterator[str]:
    found: Counter[str] = Counter()
    for name, column, where in (
        ("captions", "reason", f"status != '{OK}'"),
        ("pairs", "reason", f"status != '{OK}'"),
        ("pairs", "drop_reason", f"status = '{OK}' and kept = false"),
    ):
        path = run / f"{name}.lance"
        if not tables.exists(path) or not {column, "kept" if column == "drop_reason" else column} <= set(
            tables.column_names(path)
        ):
            continue
        for part in tables.scan(path, [column], where):
            for why in part[column].to_pylist():
                own = str(why or "no reason given")
                # what follows a colon in a row's own reason is of that row alone
                found[f"{name}: {own.partition(': ')[0] if column == 'reason' else own}"] += 1
    for why, number in found.most_common(NUM_REASONS):
        yield f"- {number:,} {_as_text(why)}"


def _unfinished(run: Path, step: str | None) -> list[str]:
    """Steps that had a part in what the card is about and have not ended."""
    steps = read_plan(run)["steps"] if (run / "plan.json").exists() else []
    wanted = {item["name"] for item in steps if item["role"] in MAKES_PAIRS} if step is None else {step}
    for item in reversed(steps):
        if item["name"] in wanted and step is not None:
            wanted.update(item["inputs"])
    names = [item["name"] for item in steps if item["name"] in wanted]
    return [name for name in names if not (run / "done" / f"{name}.json").exists()]


def _limits(run: Path, models: list[str], where: str | None, step: str | None) -> Iterator[str]:
    """What whoever uses this should know, each because something in the folder says so."""
    if left := _unfinished(run, step):
        yield f"The run had not ended when this was written: {', '.join(map(_as_text, left))} had more to do, and the counts are of that moment."
    if not (run / "plan.json").exists():
        yield "Pictures and captions are other people's, and their licence is not known here: ask where they come from before you pass this on."
    pairs = run / "pairs.lance"
    names = tables.column_names(pairs) if tables.exists(pairs) else []
    if names and step is None and (silent := tables.count(pairs, f"status = '{OK}' and (text is null or text = '')")):
        yield f"{silent:,} pictures have no text: nobody said what they show."
    if names and (painted := tables.count(pairs, f"status = '{OK}' and origin = 'painted'")):
        yield (
            f"{painted:,} pictures are painted by a model: what they show may be another thing than their caption says, and they have "
            "the habits and biases of what the painter learned from."
        )
        if not any(name in names for name in SCORES):
            yield "No score says how well a picture fits its caption."
    if names and (num_bad := tables.count(pairs, "bad") if "bad" in names else 0):
        yield f"A person marked {num_bad:,} pairs as bad; " + (
            "the filter says whether they are among these."
            if where and "bad" in where
            else "they are among these all the same."
        )
    if any(model.startswith("builtin:") for model in models):
        yield "The builtin models know the small world alone, pictures of a few shapes and colours; nothing here says how anything would do on photos."
    if unknown := [model for model in models if licence(model) == UNSAID]:
        yield f"The licence of {', '.join(_as_text(_public(model)) for model in unknown)} is not known here: ask where it comes from before you pass this on."
    numbers = [record for record in results.read(run / "results.jsonl") if record.value is not None]
    if not numbers:
        yield "Nothing was measured in this run."
    elif len({record.seed for record in numbers}) == 1:
        yield "All numbers are of one seed, which says nothing of how far another would be from them."
    yield "Nobody has looked for personal data, faces or offensive content, other than by the steps in the settings."


def _code(text: str) -> str:
    """A text as code in a line, backticks of its own included."""
    line = harmless(" ".join(text.split()))
    fence = "`" * (1 + max((len(found) for found in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def _as_text(words: str, longest: int | None = LONGEST) -> str:
    """A text of people or models that is neither HTML nor Markdown in the card, on one line."""
    plain = harmless(" ".join(words.split()))
    plain = plain if longest is None or len(plain) <= longest else f"{plain[:longest]} ..."
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", plain)


def _public(value: Any) -> Any:
    """Settings without folders and servers of the one who made it: of an absolute path the last part, of a server its model."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    if not isinstance(value, str):
        return value
    return Path(value).name if value.startswith(("/", "~")) else re.sub(r"@https?://\S+", "", value)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
