"""Faults at random for hours: `make torture`, or a share of it, `make torture SHARE=0.01 SEED=7`."""
