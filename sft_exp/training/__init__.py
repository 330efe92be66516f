"""The training loop, its optimizers, and what lets it be interrupted and continued."""
