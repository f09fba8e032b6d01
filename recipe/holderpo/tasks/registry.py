"""Make a model and data for the CPU run: ``python -m recipe.holderpo.tasks.registry --model tiny --cache-dir DIR``.

Prints the paths. What is in the cache already is used as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

MODELS = ("tiny", "smollm2", "alfworld_warm")
DATA = {  # name -> the model it is meant for
    "arithmetic": "tiny",
    "addition": "smollm2",
    "alfworld_tiny": "alfworld_warm",
    "alfworld_small": None,
    "alfworld_full": None,
}


def ensure(model: str | None, data: str | None, cache_dir: Path) -> list[Path]:
    """Make the named model and data in ``cache_dir`` unless they are there; return their paths, model first.

    None asks for nothing. The model is ``cache_dir/<model>``, the data are ``cache_dir/<data>/{train,val}.parquet``.

    Raises:
        ValueError: an unknown name.
    """
    if model not in (None, *MODELS):
        raise ValueError(f"model={model!r} is not one of {', '.join(MODELS)}")
    if data not in (None, *DATA):
        raise ValueError(f"data={data!r} is not one of {', '.join(DATA)}")
    paths: list[Path] = []
    # Imported here because each needs torch and transformers, which take seconds to load.
    if model == "tiny":
        from recipe.holderpo.embedded.pretrain import ensure_tiny_model

        paths.append(ensure_tiny_model(cache_dir))
    if model == "smollm2":
        from recipe.holderpo.tasks.addition import ensure_smollm2

        paths.append(ensure_smollm2(cache_dir))
    if data == "arithmetic":
        from recipe.holderpo.tasks.arithmetic import ensure_arithmetic_data

        paths += ensure_arithmetic_data(cache_dir)
    if data == "addition":
        from recipe.holderpo.tasks.addition import ensure_addition_data

        paths += ensure_addition_data(cache_dir)
    if data is not None and data.startswith("alfworld_"):
        from recipe.holderpo.tasks.alfworld.dataset import ensure_alfworld_data

        paths += ensure_alfworld_data(cache_dir, data.removeprefix("alfworld_"))
    if model == "alfworld_warm":
        from recipe.holderpo.tasks.alfworld.warm_start import ensure_warm_start

        paths.insert(0, ensure_warm_start(cache_dir))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    args = parser.parse_args()
    data = next(name for name, model in DATA.items() if model == args.model)
    for path in ensure(args.model, data, args.cache_dir):
        print(path)


if __name__ == "__main__":
    main()
