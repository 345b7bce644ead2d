from tests.evaluate.conftest import photo_folder

__all__ = ["photo_folder"]  # a fixture
