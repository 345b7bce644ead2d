"""What ``import reverie`` offers, a run opened by it, and the way to the Hub and back."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import reverie
from reverie import hub
from reverie.run import engine as local

from .records import result

PLAN = reverie.Plan(
    recipe="tiny",
    steps=(
        reverie.Step("captions", reverie.FillTemplates(("red circle", "blue star"), ("a {class}", "a {class}."))),
        reverie.Step("paint", reverie.PaintPixels(per_caption=2, steps=1), inputs=("captions",)),
    ),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return reverie.run(PLAN, tmp_path_factory.mktemp("library") / "run", device="cpu")


class FolderHub:
    """What ``huggingface_hub.HfApi`` does, with a folder in place of the network."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"hub://{repo_type}/{repo_id}{'?private' if private else ''}"

    def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


def test_importing_it_is_light_and_every_name_is_there():
    code = (
        "import sys, reverie; heavy = {'torch', 'diffusers', 'transformers', 'lance', 'pyarrow', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert set(dir(reverie)) == {*reverie.__all__, '__doc__'};"
        "reverie.Plan, reverie.ReverieError, reverie.open_run, reverie.recipe;"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in reverie.__all__:
        assert getattr(reverie, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'plan_of'"):
        reverie.plan_of  # noqa: B018


def test_what_a_type_checker_reads_is_what_is_imported_when_asked_for():
    source = ast.parse(Path(reverie.__file__).read_text(encoding="utf-8"))
    typed = {
        each.name: item.module
        for block in source.body if isinstance(block, ast.If)
        for item in block.body if isinstance(item, ast.ImportFrom)
        for each in item.names if each.asname == each.name  # others are not offered, to a strict type checker
    }  # fmt: skip
    assert typed == reverie._HOME_OF | {"run": "reverie.library"}


def test_run_is_called_and_is_a_package_all_the_same(done):
    assert reverie.run.engine is local
    assert [(step.name, step.complete) for step in done.status()] == [("captions", True), ("paint", True)]
    assert done.is_complete
    assert reverie.run(PLAN, str(done.folder), device="cpu") == reverie.open_run(done.folder) == done
    assert done.page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_rows_go_elsewhere(done):
    assert len(done.captions) == 2
    assert {row["label"] for row in done.captions} == {"red circle", "blue star"}
    assert len(done.pairs) == 4
    red = done.pairs.where("label = 'red circle'")
    assert len(red) == 2
    assert len(red.where("copy = 1 or copy = 7").where("copy < 9")) == 1  # each filter as a whole
    assert list(red.to_pandas(["text", "copy"])["copy"]) == [0, 1]
    assert red.where("copy = 9").to_arrow(["text"]).num_rows == 0
    with pytest.raises(reverie.InputError, match="colour"):
        red.where("colour = 'red'")


def test_to_torch(done):
    pairs = done.pairs.where("label = 'red circle'")
    stored = [Image.open(io.BytesIO(row["image"])) for row in pairs]
    batches = torch.utils.data.DataLoader(pairs.to_torch(columns=["label", "copy", "reason"]), batch_size=2)
    (batch,) = batches
    assert batch["label"] == ["red circle"] * 2
    assert batch["copy"].tolist() == [0, 1]
    assert batch["reason"] == ["", ""]
    for tensor, picture in zip(batch["image"], stored, strict=True):
        assert np.array_equal(tensor.permute(1, 2, 0).numpy(), np.asarray(picture.convert("RGB")))
    small = pairs.to_torch(lambda picture: picture.resize((8, 4)).size)
    assert len(small) == 2
    assert small[1]["image"] == (8, 4)
    with pytest.raises(reverie.InputError, match="no column colour; it has"):
        pairs.to_torch(columns=["colour"])


def test_to_datasets(done, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    found = done.pairs.where("label = 'blue star'").to_datasets(["label"])
    assert set(found.column_names) == {"pair_id", "text", "image", "label"}
    assert found["label"] == ["blue star"] * 2
    (first, _) = done.pairs.where("label = 'blue star'")
    assert np.array_equal(np.asarray(found[0]["image"]), np.asarray(Image.open(io.BytesIO(first["image"]))))
    with pytest.raises(reverie.InputError, match="no row"):
        done.pairs.where("label = 'none'").to_datasets()


def test_results_are_a_list_and_a_frame(done, tmp_path):
    from reverie.store.results import append

    assert reverie.Run(done.folder).results() == []
    told = [result(seed=seed, value=seed / 4, factors={"shots": seed}) for seed in (1, 2)]
    append(tmp_path / "results.jsonl", *told)
    found = reverie.Run(tmp_path).results()
    assert found[0].value == 0.25
    assert found.select(arm="ours", shots=2)[0].value == 0.5
    assert found.to_pandas()["value"].mean() == 0.375
    assert found.to_pandas()["factors.shots"].tolist() == [1, 2]


def test_slips_are_one_line(done, tmp_path):
    with pytest.raises(reverie.InputError, match="does not exist"):
        reverie.open_run(tmp_path / "none")
    with pytest.raises(reverie.InputError, match="no weights of 'encoder'; it has none yet"):
        done.weights("encoder")
    with pytest.raises(reverie.InputError, match="colour"):
        reverie.recipe("make", colour=3)
    with pytest.raises(reverie.UnknownName, match="mak"):
        reverie.recipe("mak")
    with pytest.raises(reverie.InputError, match="no export 'tar'"):
        done.pairs.export("tar", tmp_path / "out")


def test_pairs_go_to_the_hub_with_a_card_and_come_back(done, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    remote = FolderHub(tmp_path / "hub")
    pairs = done.pairs.where("label = 'red circle'")
    assert pairs.push_to_hub("me/circles", private=False, api=remote) == "hub://dataset/me/circles"
    card = (tmp_path / "hub/me/circles/README.md").read_text(encoding="utf-8")
    assert card.startswith('---\ntags: ["reverie", "synthetic"]\n---\n')
    assert "2 pairs of recipe `tiny`, those with `label = 'red circle'`" in card
    assert "| builtin:painter@" in card
    assert "| Apache-2.0 |" in card
    assert str(tmp_path) not in card
    files = [str(path) for path in (tmp_path / "hub/me/circles/data").glob("*.parquet")]
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert found["pair_id"] == [row["pair_id"] for row in pairs]
    with pytest.raises(reverie.InputError, match="OWNER/NAME"):
        pairs.push_to_hub("circles", api=remote)


def test_weights_go_to_the_hub_with_a_card_and_come_back(tmp_path):
    learner = reverie.StableRep("resnet-tiny", image_size=32, images_per_caption=2, head_hidden=8, head_out=4)
    train = reverie.Train(learner, reverie.Fit(steps=1), captions_per_batch=2)
    plan = reverie.Plan("tiny", (*PLAN.steps, reverie.Step("encoder", train, inputs=("paint",))))
    run = reverie.run(plan, tmp_path / "run", device="cpu")
    remote = FolderHub(tmp_path / "hub")
    assert run.push_to_hub("encoder", "me/encoder", api=remote) == "hub://model/me/encoder?private"
    ours, theirs = (reverie.load_backbone(path) for path in (run.weights("encoder"), tmp_path / "hub/me/encoder"))
    pixels = torch.arange(3 * 32 * 32, dtype=torch.uint8).reshape(1, 3, 32, 32)
    assert torch.equal(reverie.represent(ours, pixels), reverie.represent(theirs, pixels))
    card = (tmp_path / "hub/me/encoder/README.md").read_text(encoding="utf-8")
    assert 'library_name: "transformers"' in card
    assert '"images_per_caption": 2' in card
    assert "builtin:painter" in card
    with pytest.raises(reverie.FolderInUse):
        run.save_pretrained("encoder", tmp_path / "hub/me/encoder")
    (run.folder / "plan.json").write_text("{}")
    with pytest.raises(reverie.InputError, match="damaged"):
        run.save_pretrained("encoder", tmp_path / "shared/encoder")
    assert not (tmp_path / "shared").exists()  # all of it or nothing


def test_a_model_card_says_the_licence_of_a_folder(tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: [a]\nlicense: creativeml-openrail-m\n---\n# A painter\n")
    assert hub.licence(str(tmp_path)) == "creativeml-openrail-m"
    assert hub.licence("builtin:painter@0123") == "Apache-2.0"
    assert hub.licence("nobody/nothing") == hub.licence("no--body/nothing") == hub.UNSAID
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: faipl-1.0\n---\n")
    assert hub.licence(str(tmp_path)) == "faipl-1.0"


def test_a_card_names_no_folder_and_no_server(tmp_path):
    writer = reverie.Plan(
        recipe="tiny",
        steps=(*PLAN.steps[:1], reverie.Step("paint", reverie.PaintPixels("owner/painter"), inputs=("captions",))),
        arguments={"writer": "openai:mine@http://secret:8000/v1", "classes": str(tmp_path / "classes.txt")},
    )
    writer.settle(tmp_path)
    hub.write_card(tmp_path, tmp_path, data=0)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "openai:mine" in card
    assert '"classes.txt"' in card
    assert f"| owner/painter | {hub.UNSAID} |" in card
    assert "secret" not in card
    assert str(tmp_path) not in card


def test_what_is_not_on_the_hub_is_one_line(tmp_path):
    with pytest.raises(reverie.ModelError, match="cannot fetch the classifier nobody/nothing"):
        reverie.Classifier.from_pretrained("nobody/nothing")
    with pytest.raises(reverie.ModelError, match="is no captioner"):
        reverie.Captioner.from_pretrained(tmp_path / "none")


def export(*words):
    from reverie.cli.main import main

    with pytest.raises(SystemExit) as end:
        main(["export", *map(str, words)])
    return int(end.value.code or 0)


def test_a_card_says_counts_numbers_and_known_limits(done, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(done.folder, folder)
    pairs = folder / "pairs.lance"
    first = next(iter(reverie.open_run(folder).pairs))["pair_id"]
    from reverie.pairs import PAIRS, table
    from reverie.store import results, tables

    tables.mark(pairs, "bad", {first: True})
    results.append(folder / "results.jsonl", result(arm="a", label="A", seed=0, value=0.25, metric="top1"))
    lost = {
        "pair_id": "x",
        "caption_id": "x",
        "copy": 0,
        "unit": 9,
        "status": "failed",
        "reason": "broken <b>: of this row",
    }
    tables.append_unit(pairs, 9, table([lost], PAIRS))
    assert export(folder, "--card") == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "4 pairs of recipe `tiny`" in card
    assert "| pairs | 5 | 4 | 0 | 1 |  |" in card
    assert "- 1 pairs: broken \\<b\\>\n" in card
    assert "4 pictures are painted by a model" in card
    assert "No score says how well a picture fits its caption." in card
    assert "A person marked 1 pairs as bad; they are among these all the same." in card
    assert "All numbers are of one seed" in card
    assert "| A | top1 |" in card
    assert "The licence of" not in card  # builtin models have one
    assert str(tmp_path) not in card
    capsys.readouterr()
    assert export(folder, "--card") == 2
    assert "is not overwritten" in capsys.readouterr().err
    # beside what is exported
    assert export(folder, "--to", "parquet", "--out", tmp_path / "out", "--where", "bad is not true", "--card") == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "3 pairs of recipe `tiny`, those with `bad is not true`" in card
    assert "the filter says whether they are among these" in card


def test_a_card_of_a_run_that_has_not_ended_says_so(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done.folder, folder)
    steps = [each["name"] for each in json.loads((folder / "plan.json").read_text())["steps"]]
    assert export(folder, "--card") == 0
    assert "had not ended" not in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").unlink()
    (folder / "done" / f"{steps[1]}.json").unlink()
    assert export(folder, "--card") == 0
    told = f"The run had not ended when this was written: {steps[1]} had more to do"
    assert told in (folder / "README.md").read_text(encoding="utf-8")


def test_nothing_in_the_plan_of_a_run_becomes_markup(tmp_path):
    from tests.report.conftest import make_plan, write_tables

    evil = "`<script>` [a](http://b) \u202e"
    folder = tmp_path / "run"
    folder.mkdir()
    make_plan().settle(folder)
    write_tables(folder)
    record = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    record |= {"recipe": evil, "versions": {evil: evil}, "arguments": {"a": f"```\n{evil}"}}
    (folder / "plan.json").write_text(json.dumps(record), encoding="utf-8")
    assert export(folder, "--card") == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "\u202e" not in card
    before, _, rest = card.partition("\n```json\n")
    code, _, end = rest.partition("\n```\n")
    assert "<script>" in json.loads(code)["recipe"]
    assert "pairs of recipe `` `<script>` [a](http://b) \\u202e ``" in before
    assert "\\<script\\>" in end
    assert not re.search(r"(?<!\\)[<`]", end)


def test_nothing_in_a_card_becomes_markup(tmp_path):
    """A class, a label or a filter may hold what Markdown, HTML or YAML would take for its own."""
    from reverie.pairs import CAPTIONS, PAIRS, table
    from reverie.store import results, tables

    evil = "a|b`c`\n---\n# d <script>*e*"
    row = {"caption_id": "x", "unit": 0, "text": evil, "label": evil, "status": "ok"}
    tables.append_unit(tmp_path / "captions.lance", 0, table([{**row, "writer": evil}], CAPTIONS))
    tables.append_unit(tmp_path / "pairs.lance", 0, table([{**row, "pair_id": "x-0", "copy": 0, "seed": 1}], PAIRS))
    results.append(tmp_path / "results.jsonl", result(arm="a", label=evil, seed=0, value=0.25, metric="top1"))
    assert export(tmp_path, "--card", "--where", "`label` != '```\n# x'") == 0
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "those with ```` `label` != '``` # x' ````." in card
    assert "other people's, and their licence is not known" in card
    assert not [line for line in card.splitlines()[3:] if line.startswith(("---", "# d", "# x"))]
    assert "<script>" not in card
    (model, number) = [line for line in card.splitlines() if "script" in line and line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", model)) == 3
    assert len(re.findall(r"(?<!\\)\|", number)) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --to and --out, or --card"),
        (("--to", "folder"), "give --out"),
        (("--card", "--step", "nothing"), "unknown learning step 'nothing'"),
        (("--to", "folder", "--out", "x", "--card", "--step", "a"), "without --to"),
        (("--step", "a"), "give it with --card"),
        (("--to", "onnx", "--out", "x", "--card"), "an ONNX file is none"),
        (("--card", "--out", "nowhere"), "there is no folder nowhere"),
        (("--card", "--where", "nothing > 1"), "nothing"),
    ],
)
def test_a_card_of_nothing(done, capsys, words, said):
    assert export(done.folder, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (done.folder / "README.md").exists()
