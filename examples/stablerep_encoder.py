"""Train a StableRep encoder on painted images, then use it in plain PyTorch: a linear layer on what it sees.

The sizes are those of a first look; more captions, images and steps make an encoder that is worth something.
"""

import torch

import reverie

COLOURS, SHAPES = ("red", "blue", "green", "yellow"), ("circle", "star")
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

learner = reverie.StableRep("resnet-tiny", image_size=32, images_per_caption=3, head_hidden=64, head_out=32)
plan = reverie.Plan(
    recipe="encoder",
    steps=(
        reverie.Step("captions", reverie.FillTemplates(CLASSES, ("a {class}", "a small {class}"), per_class=2)),
        reverie.Step("paint", reverie.PaintPixels(per_caption=4, steps=4), inputs=("captions",)),
        reverie.Step("encoder", reverie.Train(learner, reverie.Fit(steps=10), captions_per_batch=8), inputs=("paint",)),
    ),
)
run = reverie.run(plan, "runs/encoder")

# From here on it is PyTorch.
encoder = reverie.load_backbone(run.weights("encoder"))
batches = torch.utils.data.DataLoader(run.pairs.where("status = 'ok'").to_torch(), batch_size=16)
with torch.no_grad():
    features = torch.cat([reverie.represent(encoder, batch["image"]) for batch in batches])
labels = [CLASSES.index(label) for batch in batches for label in batch["label"]]
answers = torch.tensor(labels)

layer = torch.nn.Linear(features.shape[1], len(CLASSES))
optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
for _ in range(100):
    loss = torch.nn.functional.cross_entropy(layer(features), answers)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
right = (layer(features).argmax(1) == answers).float().mean()
print(f"{len(answers)} pictures it learned from, {right:.0%} of them named as they were asked for")
