from pathlib import Path

import pytest
from report.made_run import Maker, maker


@pytest.fixture
def make_run(tmp_path: Path) -> Maker:
    return maker(tmp_path)
