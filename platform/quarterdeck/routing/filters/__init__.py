"""Filters: which replicas may take a request."""
