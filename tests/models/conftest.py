import pytest

from tests.models import tiny


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="session")
def tiny_writer(tmp_path_factory):
    return tiny.save_writer(tmp_path_factory.mktemp("writer") / "writer")
