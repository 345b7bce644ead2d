"""Commands that ask a model about images, or measure what models said."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Column, Table

from reverie.errors import InputError, UnknownName
from reverie.ranges import check_min
from reverie.report.plain import plain

if typing.TYPE_CHECKING:
    from PIL.Image import Image

    from reverie.evaluate.generation import Instruments

from reverie.cli.common import File, Folder, command_of, open_console, say
from reverie.models.devices import find_device


def predict(
    classifier: Folder,
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional],
    json: bool = False,
    device: str = "",
    batch: int = 64,
) -> None:
    """What a tuned classifier says of photos: label and confidence.

    Example: reverie predict runs/zero_shot photo.jpg holidays/

    Args:
        classifier: a run folder of zero_shot or few_shot, or one of its weights folders.
        photos: image files, and folders that are searched for them.
        json: one JSON line a photo, with the probabilities of all classes, in place of a table.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        batch: photos that go through the network at once.
    """
    import json as as_json

    from reverie.models.classifier import load_classifier

    files = _photo_files(photos)
    opened = load_classifier(classifier, find_device(device), batch)
    table = Table("photo", "label", Column("confidence", justify="right"), box=None, header_style="bold")
    with _shown_at_the_end(table):
        for pictures in _opened_photos(files, batch):
            for path, answer in zip(pictures, opened(pictures.values()), strict=True):
                if json:
                    chances = dict(
                        zip(opened.classes, (round(value, 6) for value in answer.probabilities), strict=True)
                    )
                    line = {"photo": str(path), "label": answer.label, "confidence": round(answer.confidence, 6)}
                    say(as_json.dumps(line | {"probabilities": chances}, ensure_ascii=False))
                else:
                    table.add_row(plain(path), plain(answer.label), f"{answer.confidence:.1%}")


def caption(
    captioner: Folder,
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional],
    beams: int = 1,
    tags: bool = False,
    nearest: int = 0,
    support: Path | None = None,
    json: bool = False,
    device: str = "",
    batch: int = 64,
) -> None:
    """What a trained captioner says of photos.

    Example: reverie caption runs/syntic photo.jpg holidays/ --tags --nearest 5

    Args:
        captioner: a run folder of syntic or synth2, or one of its weights folders.
        photos: image files, and folders that are searched for them.
        beams: sentences that are searched at once; 1 takes the likeliest word each time.
        tags: names of things that the captioner was given, shown as well.
        nearest: number of sentences of the support set that are shown as well, the nearest first, with their cosine.
        support: sentences in whose terms photos are said in place of its own: a file, read as a corpus is, or a support folder; nothing is trained.
        json: one JSON line a photo in place of a table.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        batch: photos that go through the networks at once.
    """
    import json as as_json

    from reverie.learn.make_support_set import support_of_file
    from reverie.models.captioner import load_captioner
    from reverie.models.support_set import ABOUT

    if beams < 1 or nearest < 0:
        raise InputError("beams are 1 or more, and nearest 0 or more")
    files = _photo_files(photos)
    is_file = support is not None and not (support / ABOUT).is_file()
    handed = support_of_file(support) if support is not None and is_file else support
    opened = load_captioner(captioner, find_device(device), batch, handed)
    if tags and opened.detector is None:
        raise InputError(f"{captioner} is a captioner that is given no tags, so none can be shown; leave --tags out")
    table = Table(
        *["photo", "caption", *["tags"] * tags, *["nearest sentences"] * bool(nearest)], box=None, header_style="bold"
    )
    with _shown_at_the_end(table):
        for pictures in _opened_photos(files, batch):
            for path, told in zip(pictures, opened(list(pictures.values()), beams, nearest), strict=True):
                if json:
                    close = [{"text": text, "cosine": round(cosine, 4)} for text, cosine in told.nearest]
                    line = {"photo": str(path), "caption": told.text, "tags": list(told.tags), "nearest": close}
                    say(as_json.dumps(line, ensure_ascii=False))
                    continue
                near = "\n".join(f"{cosine:.2f}  {text}" for text, cosine in told.nearest)
                cells = [str(path), told.text, *[", ".join(told.tags)] * tags, *[near] * bool(nearest)]
                table.add_row(*map(plain, cells))


def _photo_files(photos: tuple[Path, ...]) -> list[Path]:
    """The image files that are named, or lie in folders that are. Raises InputError if there is none."""
    from reverie.store.pictures import picture_files

    if files := picture_files(photos):
        return files
    raise InputError("name at least one photo, or a folder with some")


def _opened_photos(files: list[Path], batch: int) -> Iterator[dict[Path, Image]]:
    """Those that can be read, some at a time; after the last, an InputError that names those that cannot."""
    from reverie.errors import BrokenImage
    from reverie.store.pictures import AT_ONCE, read_picture

    if batch < 1:
        raise InputError(f"a batch of {batch} photos cannot be; give 1 or more")
    broken: list[str] = []
    for start in range(0, len(files), batch):
        pictures, pixels = dict[Path, "Image"](), 0
        for path in files[start : start + batch]:
            try:
                pictures[path] = read_picture(path)
            except BrokenImage as error:
                broken.append(str(error))
                continue
            pixels += pictures[path].width * pictures[path].height
            if pixels > AT_ONCE:  # large ones fill the memory
                yield pictures
                pictures, pixels = {}, 0
        if pictures:
            yield pictures
    if broken:
        raise InputError(f"{len(broken)} of {len(files)} photos cannot be read: {'; '.join(broken[:3])}")


@contextmanager
def _shown_at_the_end(table: Table) -> Iterator[None]:
    """Print what the table has by then, also where an error ends it."""
    try:
        yield
    finally:
        if table.row_count:
            open_console().print(table)


def evaluate(words: list[str]) -> int:
    if not words:
        raise InputError(f"reverie evaluate: give a kind: {', '.join(EVALUATIONS)}")
    if words[0] in ("-h", "--help"):
        say(f"usage: reverie evaluate KIND ...\n\nKinds: {', '.join(EVALUATIONS)}")
        say("\nExample:\n  reverie evaluate captions results.json captions_val2017.json")
        say("  reverie evaluate transfer runs/demo/weights/stablerep-0 cifar10/ pets/")
        return 0
    if words[0] not in EVALUATIONS:
        raise UnknownName("kind of evaluation", words[0], EVALUATIONS)
    return EVALUATIONS[words[0]](words[1:])


def evaluate_captions(
    results: File,
    references: File,
    metrics: tuple[Literal["bleu", "rouge_l", "cider_d", "cider", "meteor", "meteor_java", "spice"], ...] = (
        "bleu",
        "rouge_l",
        "cider_d",
        "cider",
        "meteor",
    ),
    json: bool = False,
) -> None:
    """How close captions are to those that people wrote, by the metrics of the COCO toolkit; most of them need no Java.

    Example: reverie evaluate captions results.json captions_val2017.json.gz

    Numbers are times 100, as papers print them. The photos of the results are scored. CIDEr-D is what the COCO toolkit and
    most papers call CIDEr.

    Args:
        results: COCO results, a list of {"image_id", "caption"}; also .gz.
        references: COCO captions, {"images", "annotations"}; also .gz.
        metrics: metrics to compute; cider is the one without clipping and length penalty, meteor the one without paraphrases.
            meteor_java and spice run Java programs: pip install 'reverie[java-metrics]'.
        json: one JSON object in place of a table.
    """
    import json as as_json

    from reverie.evaluate.caption_files import measure, read

    captioned = read(results, references)
    with Console(stderr=True).status("measuring"):
        scores = measure(captioned, metrics)
    told = {name: round(100 * found.corpus, 4) for name, found in scores.items()}
    if json:
        counts = {"photos": len(captioned.ids), "references": captioned.num_references}
        counts |= dict(zip(("captions_without_words", "references_without_words"), captioned.wordless, strict=True))
        say(as_json.dumps(counts | {"photos_without_result": captioned.num_without, "times_100": told}))
        return
    table = Table("metric", Column("times 100", justify="right"), box=None, header_style="bold")
    for name, value in told.items():
        table.add_row(name, f"{value:.1f}")
    open_console().print(table)
    say(f"{len(captioned.ids):,} photos, {captioned.num_references:,} references")
    if captioned.num_without:
        say(f"{captioned.num_without:,} more photos have references and no result; they are not scored")
    if any(captioned.wordless):
        empty, bare = captioned.wordless
        say(f"{empty:,} captions and {bare:,} references hold no word; they are scored as they are")


def evaluate_transfer(
    encoder: Annotated[str, tyro.conf.Positional],
    photos: Annotated[tuple[str, ...], tyro.conf.Positional],
    max_train: int = 0,
    max_test: int = 0,
    neighbours: int = 20,
    seed: int = 0,
    batch: int = 64,
    device: str = "",
    json: bool = False,
) -> None:
    """How much a linear classifier and nearest neighbours get out of the frozen features of any encoder, on any labelled photos.

    Example: reverie evaluate transfer runs/demo/weights/stablerep-0 cifar10/ pets/

    Strengths of the linear classifier are chosen on a fifth of train; test is read once. Photos are prepared as the encoder's own
    image processor says. In the mean all sets of photos weigh the same.

    Args:
        encoder: a vision model or the vision tower of a CLIP: weights of a run, a folder, a Hub id, or builtin:clip; pixels for
            the photos themselves, which an encoder should be better than.
        photos: folders with train and test, each a parquet file, a table of pairs, or one folder of pictures for each class.
        max_train: train photos to draw where there are more; 0 is all.
        max_test: test photos to draw where there are more; 0 is all.
        neighbours: number of nearest neighbours that vote.
        seed: random seed of what is drawn and held out.
        batch: photos that go through the network at once.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        json: one JSON object in place of a table.
    """
    import json as as_json

    from reverie.evaluate.transfer import Transferred, called, features_of, means, transfer

    if not photos:
        raise InputError("name photos to measure on: folders with train and test")
    device = find_device(device)
    features, name = features_of(encoder, device, batch)
    rows: list[Transferred] = []
    table = Table(
        "photos", *(Column(head, justify="right") for head in ("classes", "train", "test", "linear probe", "nearest")),
        box=None, header_style="bold",
    )  # fmt: skip
    names = called(photos)
    with Console(stderr=True).status("measuring") as line:
        for row in transfer(
            features, photos, max_train=max_train, max_test=max_test, neighbours=neighbours, seed=seed, batch_size=batch,
            device=device, progress=lambda what, done, total: line.update(f"{what}: {done:,} of {total:,}"),
        ):  # fmt: skip
            rows.append(row)
            numbers = f"{row.num_classes:,}", f"{row.num_train:,}", f"{row.num_test:,}"
            table.add_row(plain(names[len(rows) - 1]), *numbers, f"{row.linear:.1%}", f"{row.knn:.1%}")
    mean = means(rows)
    if json:
        say(as_json.dumps({"encoder": name, "photos": [dataclasses.asdict(row) for row in rows], "mean": mean}))
        return
    if len(rows) > 1:
        table.add_row("mean", "", "", "", f"{mean['linear']:.1%}", f"{mean['knn']:.1%}", style="bold")
    open_console().print(table)
    say(f"top-1 on test photos, of the features of {name}")


def evaluate_diversity(
    captions: Annotated[tuple[str, ...], tyro.conf.Positional],
    names: tuple[str, ...] = (),
    encoder: str = "words",
    clusters: int = 50,
    size: int = 0,
    num_seeds: int = 5,
    draws: int = 200,
    picture: Path | None = None,
    device: str = "",
    json: bool = False,
) -> None:
    """How varied and how balanced sets of captions are, side by side: files, runs, or columns of either.

    Example: reverie evaluate diversity runs/synth2 captions_val2017.json.gz DOCCI_Test.jsonl:IIW --picture diversity.svg

    All sets are brought to the size of the smallest. Clusters are found in all of them together; each number has its 95 % interval.

    Args:
        captions: a file of captions, a run folder, or either with :COLUMN behind it.
        names: what the table and the picture call them; the paths when absent.
        encoder: words, for vectors of tf-idf; or an encoder of images and texts, whose text tower reads the captions.
        clusters: number of clusters, k of k-means.
        size: captions of each set to compare; as many as the smallest has when 0, and never more than 20,000.
        num_seeds: number of random seeds (0, 1, ...) that captions are drawn and clustered with; numbers are means over them.
        draws: number of draws of the bootstrap.
        picture: file for a picture, .svg, .png or .pdf.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        json: one JSON object in place of a table.
    """
    import json as as_json

    from reverie.evaluate.diversity import compare, encoder_vectors, read_captions, word_vectors
    from reverie.report import diversity as shown

    if not captions:
        raise InputError("name sets of captions to compare: files, run folders, or either with :COLUMN")
    if picture is not None:
        shown.check_picture(picture)
    called = names or tuple(captions)
    if len(called) != len(captions):
        raise InputError(f"--names gives {len(called)} for {len(captions)} sets; each needs one of its own")
    if twice := next((name for name in called if called.count(name) > 1), None):
        raise InputError(f"two sets are called {twice}; give each a name of its own: --names")
    sets = {name: read_captions(source) for name, source in zip(called, captions, strict=True)}
    embed = word_vectors if encoder == "words" else encoder_vectors(encoder, find_device(device))
    with Console(stderr=True).status("measuring") as line:
        found = compare(
            sets, embed, clusters, num_seeds, draws, size,
            progress=lambda done, total: line.update(f"measuring: seed {done + 1} of {total}"),
        )  # fmt: skip
    if picture is not None:
        shown.draw(found, picture)
    if json:
        say(
            as_json.dumps(
                {"encoder": encoder, "clusters": clusters, "sets": [dataclasses.asdict(one) for one in found]}
            )
        )
        return
    open_console().print(shown.table(found))
    say(f"{found[0].size:,} captions of each set, {clusters} clusters of all together, vectors of {encoder}")


def evaluate_text_shift(
    captions: Annotated[tuple[str, ...], tyro.conf.Positional],
    names: tuple[str, ...] = (),
    tokenizer: str = "",
    encoder: str = "words",
    draws: int = 200,
    seed: int = 0,
    device: str = "",
    json: bool = False,
) -> None:
    """What sets of captions are like, how much they tell, and how far each lies from each other.

    Example: reverie evaluate text-shift alttext.parquet:TEXT captions_val2017.json.gz DOCCI_Test.jsonl:IIW --tokenizer bpe_simple_vocab_16e6.txt.gz

    Texts are taken as they are, bad ones too. Numbers have 95 % intervals over captions. In the tables of shifts, a row is what a model would
    have learned from and a column what it would be asked for; the diagonal is what chance does.

    Args:
        captions: a file of captions, a run folder, or either with :COLUMN behind it.
        names: what the tables call them; the paths when absent.
        tokenizer: whose tokens are counted: a model with a tokenizer, by name, or CLIP's file bpe_simple_vocab_16e6.txt.gz; none when empty.
        encoder: words, for vectors of tf-idf; or an encoder of images and texts, whose text tower reads the captions for mmd.
        draws: number of draws of the bootstrap.
        seed: random seed of how captions are dealt to the two halves.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        json: one JSON object in place of tables.
    """
    import json as as_json

    from reverie.evaluate.diversity import encoder_vectors, word_vectors
    from reverie.evaluate.text_shift import read_raw, text_shift
    from reverie.report import text_shift as shown

    if not captions:
        raise InputError("name sets of captions to compare: files, run folders, or either with :COLUMN")
    called = names or tuple(captions)
    if len(called) != len(captions) or len(set(called)) < len(called):
        raise InputError(
            f"{len(called)} names were given for {len(captions)} sets; each needs one of its own (--names)"
        )
    counter = None
    if tokenizer:
        from reverie.models.token_count import open_token_counter

        counter = open_token_counter(tokenizer)
    sets = {name: read_raw(source) for name, source in zip(called, captions, strict=True)}
    embed = word_vectors if encoder == "words" else encoder_vectors(encoder, find_device(device))
    with Console(stderr=True).status("measuring") as line:
        found = text_shift(
            sets, counter, embed, draws, seed,
            progress=lambda done, total: line.update(f"measuring: set {done + 1} of {total}"),
        )  # fmt: skip
    if json:
        say(as_json.dumps({"tokenizer": tokenizer, "encoder": encoder, **dataclasses.asdict(found)}))
        return
    console = open_console()
    console.print(shown.table(found))
    for each in shown.shifts(found):
        console.print("", each)
    say(f"\nlanguage models are counted on {found.fitted_words:,} words of each set; mmd is on vectors of {encoder}")


def evaluate_generation(
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    painters: tuple[str, ...] = (),
    captions: str = "smallworld:human:200",
    guidance: tuple[float, ...] = (),
    per_caption: int = 1,
    sampler_steps: int = 10,
    painter_dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    out: Path | None = None,
    real: str = "",
    features: tuple[str, ...] = ("builtin:clip",),
    detector: str = "judge",
    threshold: float = 0.5,
    synonyms: Path | None = None,
    places: str = "judge",
    answerer: str = "",
    tise_compat: bool = False,
    where: str | None = None,
    max_images: int = 0,
    names: tuple[str, ...] = (),
    draws: int = 200,
    seed: int = 0,
    batch: int = 32,
    device: str = "",
    json: bool = False,
) -> None:
    """How good painted pictures are, and how well they show what their captions ask for: of runs, or of painters asked for it now.

    Example: reverie evaluate generation runs/short runs/mix --real smallworld:studio:400

    Painters that are named paint the same captions with the same noise, at each guidance, into a run of its own that can be gone on with:
    reverie evaluate generation --painters builtin:painter runs/tuned/weights/painter --guidance 1 2 4 --out runs/sweep

    Args:
        pictures: run folders, or folders that reverie import made, side by side.
        painters: text-to-image pipelines to ask in place of these: builtin:painter, folders, Hub ids.
        captions: what painters are asked for: smallworld:STYLE:NUMBER, a file of captions, or a run folder, either with :COLUMN.
        guidance: classifier-free guidances to try; 2 when absent.
        per_caption: pictures of a caption.
        sampler_steps: denoising steps of a picture.
        painter_dtype: number format that painters compute in; fp16 needs a GPU.
        out: folder for what painters make, with a page.
        real: pictures that distances are to: smallworld:CAMERA:NUMBER, a run, an import, or a folder; no distances when absent.
        features: encoders for Fréchet and kernel distances, by name; ONNX files, such as one of FID's Inception; pixels for the pictures themselves.
        detector: object detector for SOA and CA, by name; judge reads pictures of the small world; none when empty.
        threshold: score from which the detector's objects are there.
        synonyms: JSON file that gives for a class of the detector the words that name it too; some are known of COCO's.
        places: encoder of images and texts for PA, by name; judge in the small world; none when empty.
        answerer: image-text-to-text model that answers questions about the facts of captions, by name, or openai:MODEL@URL; judge in the small
            world; none when empty.
        tise_compat: leave pictures in which nothing is found out of SOA, as the released code of TISE does.
        where: rows of the pictures to measure, in SQL over their columns; all when absent.
        max_images: pictures of each set to measure, the first ones; all when 0.
        names: what the table calls the sets; the folders when absent.
        draws: number of draws of the bootstrap over captions.
        seed: random seed of the noise of painters.
        batch: pictures that are looked at together.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        json: one JSON object in place of a table.
    """
    import json as as_json

    from reverie.evaluate.generation import Instruments, Measuring
    from reverie.evaluate.painted import painted, reference
    from reverie.report.generation import table

    check_min(0, max_images=max_images)
    check_min(1, batch=batch, per_caption=per_caption, sampler_steps=sampler_steps)
    if bool(pictures) == bool(painters):
        raise InputError("name folders with painted pictures, or painters (--painters), one of the two")
    how = Instruments(features if real else (), detector, places, answerer, threshold, synonyms, tise_compat, draws)
    how.check()
    device = find_device(device)
    if painters:
        if idle := [
            flag for flag, given in {"--where": where, "--max-images": max_images, "--names": names}.items() if given
        ]:
            raise InputError(f"{idle[0]} chooses among pictures that are there; painters make theirs")
        if out is None:
            raise InputError("painters need a folder for their pictures: --out FOLDER")
        _paint_and_measure(painters, captions, real, guidance, per_caption, sampler_steps, painter_dtype, how, out, seed, batch, device, json)  # fmt: skip
        return
    if guidance or out:
        raise InputError(f"{'--guidance' if guidance else '--out'} says how painters paint; name some with --painters")
    called = names or tuple(folder.name for folder in map(Path.resolve, pictures))
    if len(called) != len(pictures) or len(set(called)) < len(called):
        raise InputError(
            f"{len(called)} names for {len(pictures)} sets of pictures; each needs one of its own (--names)"
        )
    sets = {name: painted(folder, where, max_images) for name, folder in zip(called, pictures, strict=True)}
    others = reference(real) if real else None
    measuring = Measuring(how, device, batch)
    with Console(stderr=True).status("measuring") as line:
        found = {
            name: measuring.measure(
                made,
                others,
                lambda done, total, name=name: line.update(f"{name}: {done:,} of {total:,} pictures"),  # type: ignore[misc]
            )
            for name, made in sets.items()
        }
    if json:
        told = {name: [dataclasses.asdict(one) for one in numbers] for name, numbers in found.items()}
        say(as_json.dumps({"sets": told}))
        return
    if not any(found.values()):
        raise InputError(
            "no caption asks for anything that could be looked for, and no distance was asked for (--real)"
        )
    open_console().print(table(found))
    for name, made in sets.items():
        lost, black = (next((one.details[what] for one in found[name]), 0) for what in ("without_picture", "black"))
        say(
            f"{plain(name)}: {len(made):,} pictures"
            + f", {lost:,} of which are not there and show nothing" * bool(lost)
            + f"; {black:,} are black all over, as a safety checker leaves them" * bool(black)
        )


def _paint_and_measure(
    painters: tuple[str, ...], captions: str, real: str, guidance: tuple[float, ...], per_caption: int,
    sampler_steps: int, dtype: Literal["fp32", "bf16", "fp16"], how: Instruments, out: Path, seed: int, batch: int,
    device: str, json: bool,
) -> None:  # fmt: skip
    """The same as a run of one step, which resumes and has a page."""
    import json as as_json

    from reverie.arms import Arm
    from reverie.evaluate.generation import GenerationSpeed, MeasureGeneration
    from reverie.images.pixels import PaintPixels
    from reverie.report import page
    from reverie.report.generation import of_records, table
    from reverie.run import engine
    from reverie.run.plan import Plan, Step
    from reverie.store import results

    arms = tuple(Arm(f"painter-{place}", name, factors={"painter": name}) for place, name in enumerate(painters))
    stage = MeasureGeneration(
        arms, captions, real, PaintPixels(per_caption=per_caption, steps=sampler_steps, dtype=dtype), guidance, how,
        GenerationSpeed(batch),
    )  # fmt: skip
    known = {
        "painters": list(painters), "captions": captions, "guidance": list(guidance), "per_caption": per_caption,
        "sampler_steps": sampler_steps, "painter_dtype": dtype, "real": real or None, "features": list(how.features),
        "detector": how.observer, "threshold": how.threshold, "synonyms": str(how.synonyms) if how.synonyms else None,
        "places": how.places, "answerer": how.answerer, "tise_compat": how.tise_compat, "draws": how.draws, "seed": seed,
    }  # fmt: skip
    plan = Plan("generation", (Step("generation", stage),), seed=seed, arguments=known)
    engine.run(plan, out, device)
    written, records = page.write(out), results.read(out / "results.jsonl")
    if json:
        say(as_json.dumps([record.as_dict() for record in records]))
        return
    open_console().print(table(of_records(records)))
    say(written.resolve())


def evaluate_cost(
    painter: str = "builtin:token-painter",
    language_model: str = "builtin:writer",
    captions: str = "",
    guidance: float = 3.0,
    sampler_steps: int = 8,
    batch: int = 16,
    warm_up: int = 20,
    timed: int = 100,
    painter_dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    memory: bool = True,
    device: str = "",
    json: bool = False,
) -> None:
    """What image tokens cost, and what pictures of the same ids cost: images and steps a second, memory, bytes.

    Example: reverie evaluate cost --painter amused/amused-256 --language-model gpt2 --captions captions.txt --guidance 10 --sampler-steps 12

    Both ways paint the same ids and train captioners of equal weights, in turns; ratios are medians over steps of pixels / tokens.

    Args:
        painter: name or folder of an aMUSEd pipeline.
        language_model: name or folder of the captioner's language model.
        captions: a file of captions, a run folder, or either with :COLUMN behind it; sentences of the small world when absent.
        guidance: classifier-free guidance; 1 = none.
        sampler_steps: passes of the painter's network for an image.
        batch: images in a step.
        warm_up: steps of each way before the first that is timed.
        timed: steps of each way that are timed.
        painter_dtype: number format that the painter computes in; fp16 needs a GPU.
        memory: peak memory as well, measured in a process for each way.
        device: cpu, cuda or cuda:N; when empty, the GPU if there is one.
        json: one JSON object in place of a table.
    """
    import json as as_json

    from reverie.evaluate.cost import PAPER, CostSettings, measure_cost, small_world
    from reverie.evaluate.diversity import read_captions

    settings = CostSettings(
        painter, language_model, guidance, sampler_steps, batch, warm_up, timed, painter_dtype
    )  # before what is slow
    texts = read_captions(captions) if captions else small_world()
    with Console(stderr=True).status("measuring") as line:
        found = measure_cost(
            texts, settings, find_device(device), memory,
            progress=lambda done, total: line.update(f"measuring: step {done + 1} of {total}"),
        )  # fmt: skip
    if json:
        say(as_json.dumps(dataclasses.asdict(found)))
        return
    table = Table("", *(Column(name, justify="right") for name in ("tokens", "pixels", "pixels / tokens")), box=None)
    speeds = {
        "images a second": (found.images_per_s, found.generation),
        "steps a second, painting for each": (found.steps_per_s, found.training),
        "steps a second, from a store": (found.stored_steps_per_s, found.stored),
    }
    for what, (rates, timed_) in speeds.items():
        ratio = f"{timed_.ratio:.2f} ({timed_.low:.2f} to {timed_.high:.2f})"
        table.add_row(what, f"{rates['tokens']:.2f}", f"{rates['pixels']:.2f}", ratio)
    for what, part in (("peak memory, MiB", "peak"), ("above the models, MiB", "above")):
        peaks = [None if one is None else getattr(one, part) / 2**20 for one in found.memory.values()]
        shown = [f"{peak:,.1f}" if peak is not None else "not measured" for peak in peaks]
        table.add_row(what, *shown, f"{peaks[1] / peaks[0]:.2f}" if peaks[0] and peaks[1] else "")
    for what, sizes in (("bytes an image", found.content_bytes), ("bytes a pair on disk", found.pair_bytes)):
        table.add_row(what, *(f"{size:,.0f}" for size in sizes.values()), f"{sizes['pixels'] / sizes['tokens']:.1f}")
    open_console().print(table)
    say(
        f"{found.num_ids} ids an image of {found.size_px} px, {found.batch} a step, {found.timed} steps after {found.warm_up}, on {found.device}; "
        f"{found.agreement:.1%} of ids come back from a picture. The paper tells {PAPER} for speed."
    )


def study_page(
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    out: Path | None = None,
    names: tuple[str, ...] = (),
    num: int = 50,
    px: int = 256,
    seed: int = 0,
    votes: tuple[Path, ...] = (),
    key: Path | None = None,
    baseline: str = "",
    draws: int = 2000,
    json: bool = False,
) -> None:
    """A page on which people compare painters blindly, and, with --votes, what they said.

    Example: reverie study-page runs/base runs/mix --names base mix --num 50 --out study.html

    The page is one file that needs no network. Beside it lies its key, study.key.json, which says whose each picture is: keep it from raters.
    Each of them saves the votes as a file, and: reverie study-page --votes votes-*.json --key study.key.json

    Args:
        pictures: run folders whose pictures are compared, of the same captions with the same noise, the one to compare with first.
        out: the page, a file that ends in .html.
        names: what the tables call them; the folders when absent. The page does not tell them.
        num: captions to show, drawn from those that all have.
        px: longest side of a picture on the page.
        seed: random seed of which captions are shown and in which order their pictures stand.
        votes: files that raters saved from the page.
        key: the file that was written beside the page.
        baseline: painter that gains are relative to; the first when absent.
        draws: number of draws of the bootstrap over captions.
        json: one JSON object in place of a table.
    """
    import json as as_json

    from reverie.evaluate.human_study import count, pick, read_key, write_key
    from reverie.evaluate.painted import painted
    from reverie.report import human_study as shown

    check_min(1, px=px)
    check_min(2, draws=draws)
    if bool(votes) == bool(pictures):
        raise InputError("name run folders for a page, or files of votes (--votes), one of the two")
    if votes:
        if key is None:
            raise InputError("whose the pictures were stands in the key beside the page; name it: --key study.key.json")
        found = count(read_key(key), votes, baseline, draws)
        if json:
            say(as_json.dumps(dataclasses.asdict(found), ensure_ascii=False))
            return
        open_console().print(shown.table(found))
        for line in shown.words(found):
            say(line)
        return
    if out is None or out.suffix != ".html":
        raise InputError("name the page, a file that ends in .html: --out study.html")
    if key or baseline:
        raise InputError(f"{'--key' if key else '--baseline'} belongs to files of --votes")
    called = names or tuple(folder.name for folder in map(Path.resolve, pictures))
    if len(called) != len(pictures) or len(set(called)) < len(called):
        raise InputError(
            f"{len(called)} names for {len(pictures)} sets of pictures; each needs one of its own (--names)"
        )
    if len(pictures) > shown.MAX_ARMS:
        raise InputError(f"{len(pictures)} painters are more than a person can compare; give at most {shown.MAX_ARMS}")
    sets = {name: painted(folder) for name, folder in zip(called, pictures, strict=True)}
    study = pick(sets, num, seed)
    shown.write(study, sets, out, px)
    write_key(study, out.with_suffix(".key.json"))
    say(f"{out.resolve()}: {len(study.items):,} captions, {len(called)} pictures each")
    say(f"{out.with_suffix('.key.json').resolve()}: whose each picture is; keep it from raters")


def models(
    what: Annotated[Literal["list", "check"], tyro.conf.Positional] = "list", num: int = 500, seed: int = 0
) -> int:
    """The models that come with the package, or (check) how well they do what the small world needs of them.

    Example: reverie models check --num 100

    Args:
        what: list them, or measure them; exit code 1 if a gate is missed.
        num: number of fresh captions to measure on.
        seed: random seed of these captions.
    """
    if what == "check":
        check_min(1, num=num)
        from reverie.builtin import check

        with Console(stderr=True).status("measuring") as line:
            rows = check.check(
                seed=seed,
                num=num,
                progress=lambda what, done, total: line.update(
                    f"measuring {what}" + f": {done:,} of {total:,} images" * (total > 1)
                ),
            )
        open_console().print(check.table(rows))
        return 1 if any(row.passed is False for row in rows) else 0
    from reverie.models.names import builtin_folder, builtin_names

    table = Table("name", "size", "licence", "what it is", box=None, header_style="bold")
    for name in builtin_names():
        size = sum(path.stat().st_size for path in builtin_folder(name).rglob("*.safetensors"))
        table.add_row(f"builtin:{name}", f"{size / 1e6:.1f} MB", "Apache-2.0", BUILTIN_IS.get(name, ""))
    open_console().print(table)
    return 0


BUILTIN_IS = {
    "painter": "text-to-image, 64x64 (StableDiffusionPipeline), trained on the small world",
    "painter-alt": "the same network under web alt-text, from the painter's weights: what reverie run recap begins from",
    "clip": "image-text encoder (CLIPModel), trained on the small world",
    "writer": "captions from a class name (causal LM), trained on small-world captions",
    "words": "many sentences from a class name (T5), trained on small-world captions",
    "detector": "named objects with boxes (RT-DETR), trained on small-world renders",
    "tokenizer": "pictures as 8x8 ids of a codebook and back (VQModel), trained on small-world renders",
    "token-painter": "text to such ids (AmusedPipeline), trained on the small world",
    "describer": "short and long captions of a picture (PaliGemma), trained on the small world",
}


# Kinds of `reverie evaluate`.
EVALUATIONS: dict[str, Callable[[list[str]], int]] = {
    "captions": command_of("evaluate captions", evaluate_captions),
    "cost": command_of("evaluate cost", evaluate_cost),
    "diversity": command_of("evaluate diversity", evaluate_diversity),
    "generation": command_of("evaluate generation", evaluate_generation),
    "text-shift": command_of("evaluate text-shift", evaluate_text_shift),
    "transfer": command_of("evaluate transfer", evaluate_transfer),
}
