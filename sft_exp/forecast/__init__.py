"""Forecast the accuracy with more labels."""
