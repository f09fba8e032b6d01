"""A reward that an untrained model meets now and then, so that groups have a signal: digits among its bytes."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    score = float(sum(character.isdigit() for character in solution_str) % 2)
    return {"score": score, "acc": score}
