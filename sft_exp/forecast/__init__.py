"""Forecast what more labels would bring."""
