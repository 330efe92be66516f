"""Labels to check again: python -m sft_exp.suspicious run=RUN"""
