"""Seeds of requests: as documented, and different for whatever differs."""

import subprocess
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.seeds import request_seed


def test_a_seed_is_the_documented_hash() -> None:
    """Against coreutils: a run can be repeated by a later version."""
    digest = subprocess.run(["sha256sum"], input=b"7/3/0/What is 1/2?", capture_output=True, check=True).stdout
    assert request_seed(7, 3, 0, "What is 1/2?") == int.from_bytes(bytes.fromhex(digest[:16].decode()), "little") // 2


@given(*[st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.text("/0aé", max_size=4))] * 2)
def test_seeds_differ_exactly_where_run_index_sample_or_name_do(a: Any, b: Any) -> None:
    assert (request_seed(*a) == request_seed(*b)) == (a == b)
    assert 0 <= request_seed(*a) < 2**63
