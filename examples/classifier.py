"""A classifier from class names alone, asked about a picture.

Painter, encoder and classes are those of the small world that comes with reverie. For your own classes name public models:
reverie.recipe("zero_shot", classes="classes.txt", painter="stable-diffusion-v1-5/stable-diffusion-v1-5",
clip="openai/clip-vit-base-patch16"), and more captions of each class.
"""

from pathlib import Path

import reverie

Path("classes.txt").write_text("red circle\nblue star\ngreen square\n")
plan = reverie.recipe("zero_shot", classes="classes.txt", per_class=2, sampler_steps=4, epochs=5, seeds=(0,))
run = reverie.run(plan, "runs/classifier")

classifier = reverie.load_classifier(run.folder)
for pair in run.pairs.where("kept"):
    (answer,) = classifier([pair["image"]])
    print(f"asked for a {pair['label']}, looks like a {answer.label} ({answer.confidence:.0%})")

run.save_pretrained(
    "classifier", "shared/classifier"
)  # with a card; run.push_to_hub("classifier", "OWNER/NAME") shares it
print(reverie.Classifier.from_pretrained("shared/classifier").classes)
