import pytest

from tests.images import pipelines


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    return str(pipelines.save("sd", tmp_path_factory.mktemp("painter") / "sd"))
