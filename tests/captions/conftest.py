import pyarrow as pa
import pytest

from reverie.stage import StepContext


class Events(list):
    """What a stage reported."""

    def __call__(self, kind, **facts):
        self.append((kind, facts))


@pytest.fixture
def context(tmp_path):
    return StepContext(tmp_path / "run", "captions", seed=7, report=Events())


def units_of(stage, context, unit_size):
    """All rows of a source stage, made unit by unit as the engine does."""
    worker = stage.open(context)
    return [
        worker(asked(unit, start, min(start + unit_size, stage.count)))
        for unit, start in enumerate(range(0, stage.count, unit_size))
    ]


def asked(unit, start, stop):
    return pa.table(
        {"unit": pa.array([unit] * (stop - start), pa.int64()), "position": pa.array(range(start, stop), pa.int64())}
    )
