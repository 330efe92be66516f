"""The store's content: python -m sft_exp.ls"""
