"""What a run folder of an earlier version, and a class that is no stage, are told in one line."""

import dataclasses
import json

import pytest

from reverie.cli.main import main
from reverie.errors import InputError
from reverie.run.engine import run
from reverie.run.plan import Plan, Step
from tests.run.fake_recipe import fake_recipe


@pytest.mark.parametrize("words", [("status",), ("verify",), ("retry",), ("report",), ("repaint", "0-000")])
def test_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path, capsys, words):
    folder = tmp_path / "run"
    folder.mkdir()
    fake_recipe(count=1).settle(folder)
    record = json.loads((folder / "plan.json").read_text())
    for step in record["steps"]:
        step["of"] = step.pop("inputs")
    (folder / "plan.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as end:
        main([words[0], str(folder), *words[1:]])
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert told.startswith(f"reverie: {folder} was made by an earlier version")
    assert told.count("\n") == 1
    with pytest.raises(InputError, match="earlier version"):
        run(fake_recipe(count=1), folder)


def test_a_class_that_is_no_stage_is_refused_by_name():
    @dataclasses.dataclass(frozen=True)
    class Loose:
        def run(self, context):
            pass

    with pytest.raises(InputError, match=r"step 'it': Loose is no stage; derive it from UnitStage, SourceStage or Job"):
        Plan("mine", (Step("it", Loose()),))  # type: ignore[arg-type]
