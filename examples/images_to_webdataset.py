"""Own images in, WebDataset out: a folder with a sub-folder for each class becomes a table, and the table tar shards.

Give the folder of your images: python images_to_webdataset.py photos/
"""

import sys
from pathlib import Path

from PIL import Image

import reverie

if len(sys.argv) > 1:
    photos = Path(sys.argv[1])
else:  # nothing at hand: three plain pictures
    photos = Path("photos")
    for colour in ("red", "green", "blue"):
        (photos / colour).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), colour).save(photos / colour / "plain.png")

reverie.import_into(photos, "tables", template="a photo of something {class}")
pairs = reverie.open_run("tables").pairs.where("status = 'ok' and width >= 32")
print(pairs.columns)
print(pairs.export("webdataset", "shards"))
