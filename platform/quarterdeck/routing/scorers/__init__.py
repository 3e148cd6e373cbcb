"""Scorers: how well each replica suits a request, from 0 to 1."""
