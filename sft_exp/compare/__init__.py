"""Runs side by side: python -m sft_exp.compare FOLDERS..."""
