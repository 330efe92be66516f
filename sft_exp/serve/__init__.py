"""A prediction server: python -m sft_exp.serve run=RUN"""
