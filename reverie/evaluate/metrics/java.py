"""SPICE and the whole METEOR 1.5 through their own Java programs, which come with the package ``pycocoevalcap``.

An extra: ``pip install 'reverie[java-metrics]'`` and a Java of the right version. Where either is missing, one line says so; there
is never a made-up number, and nothing is downloaded here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from reverie.errors import MissingExtra, ReverieError
from reverie.evaluate.metrics.captions import Scores, Words, check_photos

CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def meteor_java(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]], modules: Sequence[str] = ()
) -> Scores:
    """METEOR 1.5 with its table of paraphrases, as the COCO toolkit runs it (``-l en -norm``), in [0, 1].

    Args:
        candidates, references: words of one caption a photo, and of at least one reference a photo.
        modules: which kinds of match, of exact, stem, synonym and paraphrase; all when empty.
    Raises: ValueError if there is no photo, their numbers differ, or a photo has no reference; MissingExtra or ReverieError if
        the package or Java is missing, or the program fails.
    """
    check_photos(candidates, references)
    command = meteor_program()
    program = subprocess.Popen(
        [*command, *(("-m", " ".join(modules)) if modules else ())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    assert program.stdin is not None
    assert program.stdout is not None
    lines = [
        f"SCORE ||| {' ||| '.join(_line(words) for words in own)} ||| {_line(candidate)}\n"
        for candidate, own in zip(candidates, references, strict=True)
    ]
    try:
        # It answers line by line, so somebody must write while we read.
        writer = threading.Thread(target=_write, args=(program, "".join(lines)))
        writer.start()
        counts = [program.stdout.readline().strip() for _ in lines]
        writer.join()
        _write(program, f"EVAL ||| {' ||| '.join(counts)}\n")
        answers = [program.stdout.readline().strip() for _ in range(len(lines) + 1)]
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
    try:
        *each, corpus = map(float, answers)
    except ValueError as error:
        raise ReverieError(f"the METEOR program stopped; it was run as: {' '.join(command)}") from error
    return Scores(corpus, np.array(each))


def meteor_program() -> list[str]:
    """The command that starts METEOR. Raises: MissingExtra or ReverieError if the package or Java is missing."""
    jar = _package("METEOR") / "meteor" / "meteor-1.5.jar"
    java, _ = java_at_hand("METEOR")
    return [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]


def _line(words: Words) -> str:
    return " ".join(chain.from_iterable(word.split() for word in words)).replace("|||", "")


def _write(program: subprocess.Popen[str], text: str) -> None:
    assert program.stdin is not None
    try:
        program.stdin.write(text)
        program.stdin.flush()
    except BrokenPipeError:  # it ended; the reader says so
        return


def spice(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> Scores:
    """SPICE 1.0 (Anderson et al., arXiv 1607.08822), the F-measure of scene graphs, in [0, 1]; ``corpus`` is the mean.

    A caption that SPICE can give no number, as neither side has a scene, is left out of ``corpus`` and is NaN in ``each``.

    Raises: as :func:`meteor_java`; ReverieError also for a Java other than 8, and where Stanford CoreNLP is not beside SPICE yet.
    """
    check_photos(candidates, references)
    command, folder = spice_program()
    asked = [
        {"image_id": place, "test": " ".join(candidate), "refs": [" ".join(words) for words in own]}
        for place, (candidate, own) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch) / "in.json", Path(scratch) / "out.json"
        question.write_text(json.dumps(asked), encoding="utf-8")
        command = [*command, str(question), "-out", str(answer), "-silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode or not answer.exists():
            raise ReverieError(f"the SPICE program stopped ({' '.join(done.stderr.split())[-300:]})")
        found = {item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(answer.read_text("utf-8"))}
    each = np.array([np.nan if found[place] is None else float(found[place]) for place in range(len(asked))])
    return Scores(float(np.nanmean(each)), each)


def spice_program() -> tuple[list[str], Path]:
    """The command that starts SPICE, and the folder to start it in. Raises: as :func:`spice`."""
    folder = _package("SPICE") / "spice"
    java, version = java_at_hand("SPICE")
    if version != 8:
        raise ReverieError(
            f"SPICE runs under Java 8 only, and {java} is Java {version}; install a Java 8 runtime and set JAVA_HOME to it"
        )
    if missing := [name for name in CORENLP if not (folder / "lib" / name).exists()]:
        raise ReverieError(
            f"SPICE needs {' and '.join(missing)}, which are not installed with it; download them once with: "
            "python -m pycocoevalcap.spice.get_stanford_models"
        )
    return [java, "-Xmx8G", "-jar", "spice-1.0.jar"], folder


def java_at_hand(need: str) -> tuple[str, int]:
    """The java program, in JAVA_HOME or on the path, and its version (8, 11, 17, ...).

    Raises: ReverieError if there is none, or it does not say its version.
    """
    home = os.environ.get("JAVA_HOME", "")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    version = "Java 8" if need == "SPICE" else "Java 8 or newer"
    if java is None:
        where = f"in JAVA_HOME ({home})" if home else "on the path"
        raise ReverieError(f"{need} runs under Java, and there is no java {where}; install a runtime of {version}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    if said.returncode or not found:
        raise ReverieError(f"{need} runs under Java, and {java} does not run; install a runtime of {version}")
    return java, int(found[1])


def _package(need: str) -> Path:
    """The folder of pycocoevalcap, without importing it."""
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(need, "java-metrics")
    return Path(found.submodule_search_locations[0])
