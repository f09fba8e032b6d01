"""Keeps the samples of an update that was not finite."""

import json
from pathlib import Path
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta

from recipe.holderpo.fault_tolerance.collapse import nonfinite_samples

FIELDS = ("old_log_probs", "advantages", "rm_scores")


def write_nonfinite_samples(batch: KVBatchMeta, tokenizer: Any, file: Path) -> None:
    """Append the samples that have a NaN or an infinity to a file, one JSON object each; all of them where none has."""
    data = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["prompts", "responses", *FIELDS]
    )
    padded = {name: data[name].to_padded_tensor(0) for name in FIELDS}
    offending = nonfinite_samples(padded)
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as lines:  # a step may have several batches
        for row in offending or range(len(batch.keys)):
            texts = {name: tokenizer.decode(data[name][row]) for name in ("prompts", "responses")}
            numbers = {name: [str(x) for x in values[row].tolist()] for name, values in padded.items()}
            lines.write(json.dumps({"sample": batch.keys[row], "in": offending.get(row), **texts, **numbers}) + "\n")
