"""A recipe of one's own: a function that returns a plan. Its keyword arguments are its flags.

reverie run examples/own_recipe.py --per-caption 4 --out runs/blue
"""

import reverie


def blue_things(per_caption: int = 2, guidance: float = 3.0, steps: int = 4) -> reverie.Plan:
    """Blue things, painted and scored against their captions.

    Args:
        per_caption: images of each caption.
        guidance: classifier-free guidance; 1 = none.
        steps: denoising steps.
    """
    names = ("blue circle", "blue star", "blue square")
    paint = reverie.PaintPixels("builtin:painter", per_caption, guidance, steps)
    return reverie.Plan(
        recipe="blue_things",
        steps=(
            reverie.Step("captions", reverie.FillTemplates(names, ("a {class}",))),
            reverie.Step("paint", paint, inputs=("captions",)),
        ),
    )


if __name__ == "__main__":
    run = reverie.run(blue_things(), "runs/blue")
    print(run.pairs.to_pandas(["text", "status", "guidance"]))
