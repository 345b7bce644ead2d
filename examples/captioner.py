"""A captioner for photos from sentences alone: they are painted, and what is learned from the pictures holds for photos."""

from pathlib import Path

import reverie

COLOURS, SHAPES = ("red", "blue", "green", "yellow"), ("circle", "star", "square")
Path("sentences.txt").write_text("".join(f"a {colour} {shape}\n" for colour in COLOURS for shape in SHAPES))

plan = reverie.recipe("syntic", captions="sentences.txt", sampler_steps=4, epochs=2, width=32, parts=False)
run = reverie.run(plan, "runs/captioner")

captioner = reverie.load_captioner(run.folder)
for pair in run.pairs.where("status = 'ok'"):
    (told,) = captioner([pair["image"]], num_nearest=1)
    print(f"painted for {pair['text']!r}, said: {told.text!r}, nearest known sentence: {told.nearest[0][0]!r}")
