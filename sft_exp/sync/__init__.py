"""Offline runs uploaded to Weights & Biases: python -m sft_exp.sync"""
