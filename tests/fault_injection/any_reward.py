"""A reward that an untrained model meets now and then, so that groups have a signal: digits among its bytes."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None, nan_every=0, **_):
    """`nan_every`: of so many texts about one has a reward that is no number."""
    score = float(sum(character.isdigit() for character in solution_str) % 2)
    if nan_every and sum(map(ord, solution_str)) % nan_every == 0:
        score = float("nan")
    return {"score": score, "acc": score}
