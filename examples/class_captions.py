"""A recipe of captions alone: a language model writes about classes, and what repeats is left out.

reverie run examples/class_captions.py --classes classes.txt --writer HuggingFaceTB/SmolLM2-135M-Instruct --out runs/asked
reverie run examples/class_captions.py --writer HuggingFaceTB/SmolLM2-135M-Instruct --no-classes 500 --out runs/not-asked

The second asks for as many captions without a class: what `reverie evaluate diversity runs/asked runs/not-asked` sets beside them.
"""

from pathlib import Path

import reverie
from reverie.captions.class_captions import AskAboutClasses, AskFreely
from reverie.filters.captions import CleanCaptions

ASKED = "Describe a photo in one plain sentence."


def class_captions(
    classes: Path = Path("classes.txt"),
    glosses: str = "",
    writer: str = "builtin:writer",
    per_class: int = 5,
    tries: int = 3,
    temperature: float = 0.7,
    max_tokens: int = 32,
    no_classes: int = 0,
    dtype: str = "bfloat16",
    batch: int = 64,
    seed: int = 0,
) -> reverie.Plan:
    """Captions about classes from a language model.

    Args:
        classes: file of class names.
        glosses: JSON file, class name -> what it means.
        writer: language model.
        per_class: captions of each class; five templates take turns.
        tries: how often the model is asked for a caption before it is given up.
        temperature: divides the logits; a small model writes plainer below 1.
        max_tokens: of a caption.
        no_classes: so many captions that no class is asked for in, instead.
        dtype: of a local model.
        batch: captions at once, and in a commit.
        seed: random seed of the run.
    """
    given = {"max_tries": tries, "temperature": temperature, "max_tokens": max_tokens, "max_words": 50, "dtype": dtype}
    if no_classes:
        captions = AskFreely(writer, per_class=no_classes, prompt=ASKED, **given)
    else:
        captions = AskAboutClasses(writer, classes, per_class, glosses=glosses, **given)
    return reverie.Plan(
        recipe="class_captions",
        seed=seed,
        unit_size=batch,
        steps=(
            reverie.Step("captions", captions),
            reverie.Step("clean", CleanCaptions(), inputs=("captions",)),
        ),
    )


if __name__ == "__main__":
    Path("classes.txt").write_text("red circle\nblue star\n", encoding="utf-8")
    run = reverie.run(class_captions(dtype="float32"), "runs/asked")
    print(run.captions.to_pandas(["label", "text", "status"]))
