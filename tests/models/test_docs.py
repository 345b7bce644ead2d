"""The example of docs/adding-a-model.md, run."""

import re
from pathlib import Path

import pyarrow as pa

from reverie.stage import StepContext

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-model.md"


def test_the_writer(tmp_path):
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    stage = names["FromPattern"](classes=("cat", "dog"), per_class=3)
    asked = pa.table({"unit": pa.array([0] * 6, pa.int64()), "position": pa.array(range(6), pa.int64())})
    rows = stage.open(StepContext(tmp_path, "captions", seed=1))(asked).to_pylist()
    good = [row for row in rows if row["status"] == "ok"]
    assert len(good) == stage.count == 6
    assert all(row["label"] in row["text"] and row["writer"] == "pattern@1" for row in good)
