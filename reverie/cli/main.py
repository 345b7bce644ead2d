"""The command line: turns words into calls. Each command is a function whose signature is its flags; heavy libraries are imported
where they are used.

A ReverieError ends as one line on stderr and exit code 2; Ctrl-C as a hint how to go on and 130; anything else is a bug
and keeps its traceback.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
from collections.abc import Callable

from reverie.cli.common import command_of, say
from reverie.cli.data import duplicates, export, import_, recaption, tokenize
from reverie.cli.predict import caption, evaluate, models, predict, study_page
from reverie.cli.recipes import claims, demo, make, plan, run_recipe
from reverie.cli.runs import compact, repaint, report, retry, status, verify
from reverie.cli.show import show
from reverie.errors import InputError, ReverieError, UnknownName
from reverie.memory import keep_freed

USAGE = """reverie: synthetic image-text data, the models trained on it, and the numbers that say what it was worth.

  reverie demo                             the whole way in minutes on a CPU: words, images, training, a page
  reverie make --captions captions.txt     captions and images in bulk; run it again to go on
  reverie run RECIPE ...                   a recipe by name, or your own recipe file
  reverie plan RECIPE ...                  what a run will take: time, disk, cost, from a short trial
  reverie claims RECIPE                    put a paper's claims to the test: holds, fails or inconclusive
  reverie status FOLDER                    how far a run is, with rate and time left
  reverie verify FOLDER                    check that the tables are complete
  reverie retry FOLDER                     make failed rows again
  reverie repaint FOLDER PAIR_ID           make one image again, alone
  reverie report FOLDER                    write report.html again
  reverie show FOLDER [OTHER]              look at its pairs in the browser; two runs side by side
  reverie compact FOLDER                   fewer, larger files in the tables of a run that committed many small units
  reverie import SOURCE --out FOLDER       image folders, COCO, CSV, parquet, WebDataset, Hugging Face -> tables
  reverie export FOLDER --to KIND --out X  tables -> WebDataset, parquet, COCO, image folder; classifier -> ONNX
  reverie duplicates FOLDER                pictures that are there twice, first those under two labels
  reverie tokenize FOLDER                  pictures as image tokens, beside them
  reverie recaption FOLDER --captioner RUN what a captioner says of every image, in a column beside the text
  reverie predict FOLDER PHOTO ...         what a tuned classifier says of photos
  reverie evaluate captions RESULTS REFS   BLEU, ROUGE-L, CIDEr, METEOR of captions in COCO files
  reverie evaluate generation FOLDER ...   painted pictures: distances, objects, counts, places, guidance
  reverie evaluate text-shift FILE ...     what sets of captions are like, and how far they lie from each other
  reverie study-page FOLDER FOLDER ...     a page on which people compare painters blindly; --votes counts
  reverie caption FOLDER PHOTO ...         what a trained captioner says of photos
  reverie models [list | check]            the builtin models; measure them

'reverie COMMAND --help' shows the flags of a command and an example."""


FORBIDDEN = ("Permission denied", "Read-only file system")


MISNAMED = (
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
)  # a path given by the user, wherever it is used


def main(words: list[str] | None = None) -> None:
    """The ``reverie`` command. Ends with SystemExit: 0, 2 (the user's to mend) or 130 (stopped)."""
    words = sys.argv[1:] if words is None else words
    # Threads of torch that wait for each other sleep instead of spinning: beside one other busy process, painting is eight times
    # faster. A moment of spinning before it is what many small products, as in a linear probe, need: they take a third less time.
    # Both must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keep_freed()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it warns of is about parts that are not used here
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(_dispatch(words))
    except ReverieError as error:
        say(" ".join(f"reverie: {error}".splitlines()), to=sys.stderr)  # a name may hold any line break of Unicode
        sys.exit(2)
    except KeyboardInterrupt:
        again = shlex.join(["reverie", *words])
        say(f"\nreverie: stopped; finished units are kept. To go on, run the same command: {again}", to=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `reverie status x | head`
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:  # safetensors and Lance wrap the OSError in one of their own
        if isinstance(error, PermissionError) or any(said in str(error) for said in FORBIDDEN):
            say(f"reverie: not allowed to read or write here ({_one_line(error)})", to=sys.stderr)
            sys.exit(2)
        if isinstance(error, OSError) and error.errno in MISNAMED:
            name = f"{str(error.filename)[:100]}: " if error.filename else ""
            say(f"reverie: cannot use {name}{error.strerror}; give another name", to=sys.stderr)
            sys.exit(2)
        if "No space left on device" not in str(error):
            raise
        say(f"reverie: the disk is full ({error}); free some space and run the same command again", to=sys.stderr)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        say(USAGE)
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        say(version("reverie"))
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    _refuse_twice(rest)
    return COMMANDS[name](rest)


def _refuse_twice(words: list[str]) -> None:
    """Raises InputError for a flag that is there twice: the last one would count, and the others be lost without a word."""
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    if twice := next((flag for flag in flags if flags.count(flag) > 1), None):
        raise InputError(f"{twice} is given twice; give it once, with all its values after it")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run_recipe,
    "make": make,
    "demo": demo,
    "plan": plan,
    "claims": claims,
    "evaluate": evaluate,
    **{
        name: command_of(name, function)
        for name, function in (
            ("status", status),
            ("verify", verify),
            ("retry", retry),
            ("repaint", repaint),
            ("report", report),
            ("show", show),
            ("compact", compact),
            ("import", import_),
            ("export", export),
            ("duplicates", duplicates),
            ("tokenize", tokenize),
            ("recaption", recaption),
            ("predict", predict),
            ("caption", caption),
            ("study-page", study_page),
            ("models", models),
        )
    },
}


if __name__ == "__main__":
    main()
