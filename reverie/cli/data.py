"""Commands that import images and captions, find duplicates, describe images, and export pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from reverie.cli.common import File, Folder, counting, open_console, say
from reverie.errors import FolderInUse, InputError, ReverieError
from reverie.models.devices import find_device
from reverie.store.places import remote


def import_(
    source: File,
    out: Path,
    kind: Literal["folder", "pictures", "coco", "csv", "tsv", "jsonl", "text", "parquet", "webdataset", "huggingface"]
    | None = None,
    name: str | None = None,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    images: Path | None = None,
    split: str | None = None,
    template: str = "a photo of a {class}.",
    captions_per_image: int | None = None,
    without_text: Literal["drop", "keep"] | None = None,
) -> None:
    """Captions and real images of others -> captions.lance and pairs.lance. Run it again to go on.

    Example: reverie import photos/ --out real
    Example: reverie import photos/ --kind pictures --out real

    It ends with a count of all that was there: taken, dropped, failed, and not taken, with the reasons.

    An image alone is a pair without text, for reverie recaption to write captions of: all pictures of a folder that holds neither folders nor metadata, or
    that is of --kind pictures, and with --without-text keep those of any source whose text is missing or empty.

    Args:
        source: an image folder with class folders or a metadata file, or of pictures, alone or beside a .txt or .caption with the caption, COCO captions (also .gz), CSV, TSV, JSONL, text,
            parquet, WebDataset tars, or a Hugging Face dataset folder.
        out: folder for the tables; new, empty, or of earlier imports: a source that was stopped goes on, and one with
            another name comes after those there.
        kind: what the source is; guessed from its name and content when left out.
        name: name of the source, part of every id; the kind when left out. Sources of one folder need different names.
        text_column: column of captions; usual names are tried when left out.
        image_column: column of images; usual names are tried when left out. In WebDataset an ending, such as left.jpg.
        label_column: column of class names; usual names are tried when left out.
        images: folder that file names in the source are relative to.
        split: part of a source that has several: a folder train or test, a split of a Karpathy file or a Hugging Face folder.
        template: caption made from a class name, {class} for the name, where there is no caption.
        captions_per_image: number of captions of an image that are taken, the first ones; all when left out.
        without_text: what becomes of an image whose text is missing or empty: drop, as is usual, or keep it without text.
    """
    from reverie.run.folder import claim_tables
    from reverie.store.imports import import_into

    given: dict[str, Any] = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "images": images,
    }
    given |= {
        "split": split,
        "captions_per_image": captions_per_image,
        "template": template,
        "without_text": without_text,
    }
    reading = {key: value for key, value in given.items() if value is not None}
    is_new = not out.exists()
    claim_tables(out)
    try:
        with counting("imported") as progress:
            account = import_into(source, out, kind, name=name, progress=progress, **reading)
    except FolderInUse:
        raise
    except ReverieError:
        if is_new and not {path.name for path in out.iterdir()} - {".lock"}:  # nothing was read: nothing is left behind
            (out / ".lock").unlink(missing_ok=True)
            out.rmdir()
        raise
    counts = account.counts
    captions, ok, alone = counts["captions"], counts.get("images ok"), counts.get("images without text", 0)
    said = f"{out}: "
    if captions or ok is None:
        said += f"{captions:,} caption{'s' * (captions != 1)}"
        said += f" ({counts['dropped captions']:,} dropped)" * (counts["dropped captions"] > 0)
    if ok is not None:
        said += ", " * bool(captions) + f"{ok:,} image{'s' * (ok != 1)} ok"
        said += f" ({alone:,} without text)" * (alone > 0)
        said += "".join(
            f", {counts[f'images {why}']:,} {why}" for why in ("dropped", "failed") if counts[f"images {why}"]
        )
    say("\n".join([said, str(account), *account.not_asked]))
    if not ok and captions == counts["dropped captions"]:
        raise InputError(f"nothing of {source} is usable; mend it, then import it into another folder")


def export(
    folder: Folder,
    to: Literal["webdataset", "parquet", "coco", "folder", "onnx"] | None = None,
    out: Path | None = None,
    where: str = "status = 'ok'",
    tokens: Literal["pictures", "ids"] = "pictures",
    tokenizer: str | None = None,
    card: bool = False,
    step: str | None = None,
) -> None:
    """The pairs of a run or an import -> files that other tools read; or its classifier -> an ONNX file; or a card about them.

    Example: reverie export runs/demo --to webdataset --out shards --where "kept and clip_score > 0.3"

    Args:
        folder: a run folder, or one that reverie import made; for onnx a run folder, or one of its weights folders.
        to: WebDataset tars, parquet with an Image feature, COCO JSON with images, or an image folder; or ONNX; nothing, for a card alone.
        out: a new or empty folder; for onnx a new file; for a card alone the folder that gets it, the run's own when left out.
        where: filter on the pairs, in SQL over their columns.
        tokens: what image tokens are written as: the pictures that they show, or ids as .npy files, or the columns of parquet.
        tokenizer: model that image tokens are decoded by; the one that the run painted with when absent.
        card: write README.md too: settings, counts, numbers, models with their licences, known limits. Pushing writes the same.
        step: learning step that a card alone is about, a model card; about the pairs when left out.
    """
    if step is not None and (to is not None or not card):
        raise InputError("--step says which weights a card is about; give it with --card, and without --to")
    if to is None:
        if not card:
            raise InputError("give --to and --out, or --card for a card alone; see reverie export --help")
        _write_card(folder, out or folder, step, where)
        return
    if out is None:
        raise InputError("give --out, the folder or file to write to; see reverie export --help")
    if at := remote(out):
        raise InputError(f"{at} is an address, and files are exported to this machine; give a folder")
    if to == "onnx":
        if where != "status = 'ok'":
            raise InputError("--where chooses pairs; an ONNX file holds a classifier and no pairs")
        if card:
            raise InputError(
                "--card writes into a folder, and an ONNX file is none; give --card --step NAME without --to"
            )
        _export_classifier(folder, out)
        return
    from reverie.store import exports, tables
    from reverie.store.sources import counted

    write: Callable[..., dict[str, int]] = {
        "webdataset": exports.to_webdataset,
        "parquet": exports.to_parquet,
        "coco": exports.to_coco,
        "folder": exports.to_folder,
    }[to]
    how: dict[str, Any] = {}
    if tokens == "ids":
        if to == "coco":
            raise InputError(
                "COCO JSON names picture files and has no place for ids; use webdataset, parquet or folder"
            )
        if tokenizer:
            raise InputError("--tokenizer makes pictures of ids, and --tokens ids wants none; leave one of them out")
        if not tables.count(folder / "pairs.lance", f"{tables.whole_filter(where)} and tokens is not null"):
            raise InputError(
                f"no pair of {folder} that fits {where!r} has image tokens; make them with: reverie tokenize {folder}"
            )
        how = {"ids": True}
    elif _has_only_tokens(folder, where):
        how = {"decode": _decoder(folder, tokenizer)}
    elif tokenizer:
        raise InputError(f"no pair of {folder} that fits {where!r} is image tokens alone; leave --tokenizer out")
    with counting("exported") as progress:
        counts = write(folder / "pairs.lance", out, where=where, progress=progress, **how)
    say(f"{out}: " + ", ".join(counted(number, what) for what, number in counts.items()))
    pairs = folder / "pairs.lance"
    if card:
        from reverie.hub import write_card

        write_card(out, folder, data=tables.count(pairs, f"{tables.whole_filter(where)} and {exports.OK}"), where=where)
        say(f"{out / 'README.md'}: the card")
    if "kept" in tables.column_names(pairs) and (
        lost := tables.count(pairs, f"{tables.whole_filter(where)} and kept = false")
    ):
        say(f'{lost:,} of these were not kept by the selection; leave them out with: --where "{where} and kept"')


def _write_card(folder: Path, out: Path, step: str | None, where: str) -> None:
    """README.md about the pairs of a folder, or about the weights of a step of a run, and nothing else."""
    from reverie.errors import UnknownName
    from reverie.hub import write_card
    from reverie.run.plan import read_plan
    from reverie.store import tables

    pairs = folder / "pairs.lance"
    data = None
    if step is not None:
        learned = [each["name"] for each in read_plan(folder)["steps"] if each["role"] == "learn"]
        if step not in learned:
            raise UnknownName("learning step", step, learned)
        if not (folder / "weights" / step).is_dir():
            raise InputError(f"the step {step} of {folder} has left no weights yet; let the run finish it first")
        if where != "status = 'ok'":
            raise InputError("--where chooses pairs, and --step asks for a card of weights; leave one of them out")
    elif not folder.is_dir() or not tables.exists(pairs):
        raise InputError(
            f"{folder} holds no pairs; give a run or an import that has some, or --step NAME for a card of weights"
        )
    else:
        data = tables.count(pairs, where)
    if not out.is_dir():
        raise InputError(f"there is no folder {out} to write README.md to; a card goes beside what it is about")
    path = out / "README.md"
    if path.exists():
        raise FolderInUse(
            f"{path} is there already and is not overwritten; move it, or give another folder: --out FOLDER"
        )
    write_card(out, folder, step=step, data=data, where=where if data is not None else None)
    say(f"{path}: the card")


def _has_only_tokens(folder: Path, where: str) -> bool:
    from reverie.store import tables

    alone = f"{tables.whole_filter(where)} and tokens is not null and image is null"
    return tables.count(folder / "pairs.lance", alone) > 0


def _decoder(folder: Path, tokenizer: str | None) -> Callable[[Sequence[Mapping[str, Any]]], list[bytes]]:
    from reverie.models.token_pictures import TokenPictures, models_named
    from reverie.run.plan import read_plan, run_of

    run = run_of(folder)
    made = models_named(read_plan(run), run) if (run / "plan.json").exists() else []
    return TokenPictures([tokenizer] if tokenizer else made).pngs


def tokenize(folder: Folder, tokenizer: str = "builtin:tokenizer", px: int | None = None, device: str = "") -> None:
    """The pictures of a run or an import as image tokens, beside them: columns tokens, grid and codebook.

    Example: reverie tokenize photos --tokenizer builtin:tokenizer

    Args:
        folder: an import or a run; nobody may be at work in it.
        tokenizer: builtin:tokenizer, a folder or a Hub id, of a VQModel of diffusers or of a pipeline that has one.
        px: side that pictures are brought to first; what the tokenizer was made for when absent.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
    """
    from reverie.images.tokens import Tokenize, tokenize_store
    from reverie.models.tokenizer import check_tokenizer
    from reverie.store.locks import all_units_held

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a run folder, or one that reverie import made")
    check_tokenizer(tokenizer)
    with all_units_held(folder), counting("units looked at:") as progress:
        number = tokenize_store(
            folder,
            Tokenize(tokenizer, px),
            find_device(device),
            lambda kind, **facts: progress(facts["done"], facts["total"]) if kind == "progress" else None,
        )
    say(f"{folder}: {number:,} pictures have image tokens")


def duplicates(folder: Folder, max_distance: int = 4, exact: bool = False) -> None:
    """Pictures that are there more than once, exactly or nearly: a table of those under two labels, and duplicates.html.

    Example: reverie duplicates photos

    Every copy gets the key of the picture that it repeats in the column duplicate_of, so that --where "duplicate_of is null"
    leaves copies out of an export.

    Args:
        folder: an import or a run; nobody may be at work in it.
        max_distance: bits of 64 that the hashes of near copies may differ in.
        exact: only those that are equal to the last pixel.
    """
    from reverie.filters.duplicates import Duplicates, find_duplicates
    from reverie.report.duplicates import gather, headline, table, write
    from reverie.store.locks import all_units_held

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a run folder, or one that reverie import made")
    with all_units_held(folder), counting("units looked at:") as progress:
        find_duplicates(
            folder,
            Duplicates(max_distance, near=not exact),
            lambda kind, **facts: progress(facts["done"], facts["total"]) if kind == "progress" else None,
        )
    page, found = write(folder), gather(folder)
    if found.conflicts:
        open_console().print(table(found))
    say(f"{headline(found)}\n{page.resolve()}")


def recaption(
    folder: Folder,
    captioner: str,
    human: Path | None = None,
    styles: tuple[Literal["short", "long"], ...] = (),
    column: str | None = None,
    prompt_short: str = "",
    prompt_long: str = "",
    count_tokens_by: str = "",
    max_tokens: int = 0,
    beams: int = 1,
    tune_steps: int = 300,
    held_out: int = 20,
    lora: int = 16,
    device: str = "",
    batch: int = 64,
    in_flight: int = 32,
) -> None:
    """What a captioner says of every image, in columns beside the text that is there. Run it again to go on.

    Example: reverie recaption photos --captioner builtin:describer
    Example: reverie recaption photos --captioner OWNER/MODEL --human captions.jsonl
    Example: reverie recaption photos --captioner runs/syntic

    The text of a pair stays as it is. Beside it come caption_short and caption_long, or the first alone of a captioner that says one sentence; two more
    columns of each say who wrote it and what is wrong with it (COLUMN_by and COLUMN_flags). Learn from them: reverie run text_to_image --mix short=0.5
    long=0.5, or paint from one: reverie make --captions photos --text-column caption_short

    Args:
        folder: a finished run, or an import; nobody may be at work in it.
        captioner: builtin:describer, a folder or the Hub id of an image-text-to-text model, openai:MODEL@URL, or a run of syntic, synth2 or recap.
        human: file of captions that people wrote, which the captioner is tuned on first; JSON lines with image (or pair_id) and text.
        styles: captions to write, short and long; both when left out, of a captioner that can be asked for both.
        column: name of the new column, where it is one; caption_short or caption_long when left out.
        prompt_short: what is asked for a short caption; what is usual for the captioner when empty.
        prompt_long: what is asked for a long caption; what is usual for the captioner when empty.
        count_tokens_by: model whose text encoder is to read the captions, such as a painter; by its tokens a caption is too long.
        max_tokens: longest caption in the captioner's own tokens; 0 = as is usual, 40 of short ones and 120 of long ones.
        beams: sentences that are searched at once; 1 takes the likeliest word each time, and samples long captions.
        tune_steps: with --human, optimiser steps.
        held_out: with --human, images whose captions are not learned from and choose the best weights.
        lora: with --human, rank of what learns beside the language part; 0 = its weights learn.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        batch: images that go through the networks at once.
        in_flight: requests on their way at once, to a captioner behind a server; fewer while it says that they are too many.
    """
    from reverie.models.describer import check_describer, styles_of
    from reverie.ranges import check_min
    from reverie.recaption.describe import Describe, DescribeSpeed

    check_min(1, batch=batch, in_flight=in_flight)
    usual = {"tune_steps": 300, "held_out": 20, "lora": 16}
    given = {"tune_steps": tune_steps, "held_out": held_out, "lora": lora}
    if human is None and (idle := next((name for name, value in given.items() if value != usual[name]), None)):
        raise InputError(
            f"--{idle.replace('_', '-')} says how a captioner is tuned; give captions to tune it on: --human FILE"
        )
    check_describer(captioner)
    chosen = tuple(dict.fromkeys(styles or styles_of(captioner)))
    if column is not None and len(chosen) > 1:
        if styles:
            raise InputError("--column names one column; ask for one of --styles with it")
        chosen = ("short",)
    prompts = {"short": prompt_short, "long": prompt_long}
    if silent := next((style for style, prompt in prompts.items() if prompt and style not in chosen), None):
        raise InputError(f"--prompt-{silent} asks for a {silent} caption, and none is written; add it to --styles")
    how: dict[str, Any] = {
        "count_tokens_by": count_tokens_by,
        "max_tokens": max_tokens,
        "speed": DescribeSpeed(batch, in_flight),
    }

    def stage_of(name: str, style: Literal["short", "long"]) -> Describe:
        stage = Describe(name, column or f"caption_{style}", beams, style, prompts[style], **how)
        stage.check()
        return stage

    stages = [stage_of(captioner, style) for style in chosen]  # what is wrong is said before any work
    if human is not None:
        captioner = str(_tuned(folder, captioner, human, prompts, given, device))
        stages = [stage_of(captioner, style) for style in chosen]
    for stage in stages:
        _described(folder, stage, find_device(device))


def _tuned(
    folder: Path, captioner: str, human: Path, prompts: Mapping[str, str], how: Mapping[str, int], device: str
) -> Path:
    """The captioner tuned on human captions, in the folder's weights; what it learned is printed."""
    from reverie.datasets.few_shot import check_store
    from reverie.learn.describe import TuneDescriber, tuned
    from reverie.run.columns import check_images

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a run folder, or one that reverie import made")
    check_store(folder)
    check_images(folder)
    job = TuneDescriber(
        captioner, human, prompt_short=prompts["short"], prompt_long=prompts["long"], steps=how["tune_steps"],
        held_out=how["held_out"], lora=how["lora"],
    )  # fmt: skip
    told: dict[str, Any] = {}
    with counting("steps of tuning:") as progress:

        def report(kind: str, **facts: Any) -> None:
            if kind == "progress":
                progress(facts["done"], facts["total"])
            elif kind == "trained":
                told.update(facts)

        weights = tuned(folder, job, find_device(device), report)
    if told:
        say(
            f"{weights}: tuned on {told['captions']:,} captions of {told['images']:,} images, best at step {told['steps']:,}"
        )
        for name, what in (
            ("loss", "loss of held-out captions"),
            ("words", "words"),
            ("recall", "things named"),
            ("hallucinated", "things made up"),
        ):
            before, after = told[f"{name}_before"], told[f"{name}_after"]
            if before is not None and after is not None:
                say(f"  {what}: {before:.3g} -> {after:.3g}")
    return weights


def _described(folder: Path, stage: Any, device: str) -> None:
    """One column more, and what became of it."""
    from reverie.learn.recaption import counted_as_begun
    from reverie.recaption.flags import EMPTY
    from reverie.run.columns import add_columns
    from reverie.store import tables

    if not stage.count_tokens_by and (counter := counted_as_begun(folder, stage).count_tokens_by):
        stage = counted_as_begun(folder, stage)
        say(f"{stage.column}: tokens are counted by {counter}, as was begun")
    column, step = stage.column, f"recaption-{stage.column}"
    with counting("units described:") as progress:

        def report(kind: str, **facts: Any) -> None:
            if kind == "progress":
                progress(facts["done"], facts["total"])

        added = add_columns(folder, stage, step, device, report)
    flags: Counter[str] = Counter()
    said = flagged = 0
    for rows in tables.scan(folder / "columns" / f"{step}.lance", [column, f"{column}_flags"]):
        said += len(rows) - rows[column].null_count
        for each in rows[f"{column}_flags"].to_pylist():
            flags.update(each or ())
            flagged += bool(each) and EMPTY not in each
    rest = added.rows - said - flags[EMPTY]
    say(f"{folder}: {said:,} of {added.rows:,} images described in {column}, {added.made:,} now")
    if flagged:
        told = ", ".join(f"{number:,} {flag}" for flag, number in flags.most_common() if flag != EMPTY)
        say(
            f'{flagged:,} of these are flagged ({told}); leave them out with: --where "cardinality({column}_flags) = 0"'
        )
    if flags[EMPTY] or rest:
        say(f"not described: {flags[EMPTY]:,} got no word, {rest:,} have no picture that can be read")


def _export_classifier(folder: Path, out: Path) -> None:
    from reverie.models.classifier import load_classifier
    from reverie.models.onnx import about, export_onnx

    classifier = load_classifier(folder)
    difference = export_onnx(classifier, out)
    said = about(classifier)
    say(
        f"{out}: {len(classifier.classes):,} classes; pixels uint8 (batch, {said['side']}, {said['side']}, 3) -> logits, "
        f"probabilities; differs from torch by {difference:.1g} at most on random pictures"
    )
