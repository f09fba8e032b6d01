"""The table of mutations fits the code, so that it does not rot between its runs."""

import pytest

from mutations.table import MUTATIONS, ROOT, Mutation, mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_one_place_and_leaves_valid_python(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text()
    changed = mutated(text, mutation)
    assert changed != text
    compile(changed, mutation.file, "exec")
    for test in mutation.tests:
        assert (ROOT / test.split("::")[0]).exists(), test


def test_names_are_unique() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
