"""The six task types of ALFWorld, in the order of the paper's Table 3."""

# task type of the game files -> the table's column
TASKS = {
    "pick_and_place_simple": "pick",
    "look_at_obj_in_light": "look",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "pick_two_obj_and_place": "pick_two",
}

SPLITS = ("train", "valid_seen", "valid_unseen")
