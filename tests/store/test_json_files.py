import os

import pytest

from reverie.errors import StoreError
from reverie.store.json_files import all_lines, read_json


def test_a_named_pipe_in_place_of_a_run_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "plan.json")
    with pytest.raises(StoreError, match=r"named pipe.*; make it anew"):
        read_json(tmp_path / "plan.json", object, StoreError, "make it anew")
    with pytest.raises(StoreError, match="named pipe"):
        list(all_lines(tmp_path / "plan.json", object))
