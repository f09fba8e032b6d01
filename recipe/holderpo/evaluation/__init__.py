"""Evaluation on the paper's benchmarks with vLLM and the training grader: `bash scripts/eval.sh model=...`."""
