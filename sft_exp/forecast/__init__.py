"""What more labels would bring: python -m sft_exp.forecast run=RUN"""
