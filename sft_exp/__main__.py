"""`python -m sft_exp pretrainer=vae optim=adam`"""

from sft_exp.cli import main

main()
