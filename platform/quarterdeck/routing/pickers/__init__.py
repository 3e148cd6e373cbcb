"""Pickers: one replica out of scored ones."""
