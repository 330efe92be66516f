"""A Weights & Biases workspace for a project: python -m sft_exp.dashboard"""
