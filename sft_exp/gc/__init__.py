"""The store's garbage collection: python -m sft_exp.gc"""
