import io
import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from reverie.cli.main import main
from reverie.errors import InputError, ModelError
from reverie.evaluate.transfer import _drawn, called, features_of, means, transfer
from reverie.models.backbones import build_backbone, save_backbone
from reverie.models.encoder import open_backbone

EXAMPLE = Path(__file__).parents[2] / "examples" / "efficientnet_lite0.py"


def photo(colour, draw):
    pixels = np.clip(np.array(colour) + draw.integers(-60, 60, (24, 32, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def sets(tmp_path):
    """A table of two classes, and folders of three."""
    draw = np.random.default_rng(0)
    colours = {"red": (200, 60, 60), "blue": (60, 60, 200), "green": (60, 200, 60)}
    for split, count in (("train", 12), ("test", 5)):
        rows = [(photo(colours[name], draw), name) for name in ("red", "blue") for _ in range(count)]
        (tmp_path / "table").mkdir(exist_ok=True)
        columns = {"image": [image for image, _ in rows], "label": [name for _, name in rows]}
        pq.write_table(pa.table(columns), tmp_path / "table" / f"{split}.parquet")
        for name, colour in colours.items():
            folder = tmp_path / "folders" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes(photo(colour, draw))
    return str(tmp_path / "table"), str(tmp_path / "folders")


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(0)
    save_backbone(build_backbone("resnet-tiny", 32), tmp_path / "backbone")
    return str(tmp_path / "backbone")


def said(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "transfer", *words])
    assert not stop.value.code
    return capsys.readouterr().out


def test_one_table_with_means(sets, backbone, capsys):
    told = json.loads(said(capsys, backbone, *sets, "--json"))
    assert [(row["num_classes"], row["num_train"], row["num_test"]) for row in told["photos"]] == [
        (2, 24, 10),
        (3, 36, 15),
    ]
    for metric in ("linear", "knn", "mean_per_class"):
        assert told["mean"][metric] == pytest.approx(np.mean([row[metric] for row in told["photos"]]))
    assert told["photos"][0]["linear"] == 1.0  # colours that differ so much are told apart by any features
    assert told["encoder"].startswith("backbone@")
    table = said(capsys, "pixels", *sets)
    for word in ("table", "folders", "mean", "100.0%", "of the features of pixels"):
        assert word in table


def test_photos_go_through_the_encoders_own_preparation(sets, backbone):
    features, _ = features_of(backbone)
    picture = Image.open(io.BytesIO(photo((10, 20, 30), np.random.default_rng(1))))
    torch.testing.assert_close(features([picture]), open_backbone(backbone).features([picture]))
    (row,) = transfer(features, sets[:1])
    (again,) = transfer(features, sets[:1], batch_size=5)
    assert row == again
    assert means([row])["knn"] == row.knn


def test_photos_are_drawn_alike_for_every_encoder(sets):
    sizes = []

    def features(pictures):
        sizes.append(len(pictures))
        return torch.stack([torch.from_numpy(np.asarray(item).mean(axis=(0, 1))) for item in pictures])

    (row,) = transfer(features, sets[1:], max_train=20, max_test=7, neighbours=3)
    assert (row.num_train, row.num_test, sum(sizes)) == (20, 7, 27)
    from reverie.datasets.labelled import load_photos

    photos = load_photos(sets[1], "train")
    assert _drawn(photos, 20, 0).images == _drawn(photos, 20, 0).images != _drawn(photos, 20, 1).images


def test_sets_that_are_called_alike_are_told_apart():
    assert called(["a/pets", "b/food", "smallworld:street:8:8"]) == ["pets", "food", "smallworld:street:8:8"]
    assert called(["a/pets/", "b/pets", "b/food"]) == ["a/pets/", "b/pets", "food"]


def test_slips(sets, capsys):
    features, _ = features_of("pixels")
    with pytest.raises(InputError, match="is named twice"):
        next(transfer(features, [sets[0], sets[0]]))
    with pytest.raises(InputError, match="is named twice"):
        next(transfer(features, [sets[0], f"{sets[0]}/"]))
    with pytest.raises(InputError, match="nowhere"):
        next(transfer(lambda pictures: pytest.fail("work before the last source was looked for"), [sets[0], "nowhere"]))
    with pytest.raises(ModelError, match="not finite"):
        next(transfer(lambda pictures: torch.full((len(pictures), 2), torch.nan), sets))
    for words, line in ((["pixels"], "photos"), (["pixels", sets[0], "--neighbours", "0"], "1 or more")):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", "transfer", *words])
        assert stop.value.code == 2
        assert line in capsys.readouterr().err


def test_the_converter_of_the_examples_gives_a_network_without_gates(tmp_path):
    convert = runpy.run_path(str(EXAMPLE))["convert"]
    from transformers import EfficientNetConfig, EfficientNetModel

    shapes = EfficientNetModel(EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280))
    draw = torch.Generator().manual_seed(0)
    theirs = {
        f"_{number}": torch.rand(value.shape, generator=draw) if value.is_floating_point() else value
        for number, (name, value) in enumerate(shapes.state_dict().items())
        if "squeeze_excite" not in name
    }
    net = convert(theirs | {"_fc.weight": torch.zeros(1000, 1280)})
    assert torch.equal(net.embeddings.convolution.weight, theirs["_0"])
    assert net.config.hidden_act == "relu6"
    for block in net.encoder.blocks:
        ones = torch.rand(1, block.squeeze_excite.dim, 2, 2, generator=draw)
        torch.testing.assert_close(block.squeeze_excite(ones), ones)
