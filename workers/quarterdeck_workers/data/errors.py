"""What is wrong with data: the user's to mend, and blamed so."""

from __future__ import annotations

from quarterdeck_workers.rank.errors import DataError


class DataProblem(DataError, ValueError):
    """Data that is missing, changed, empty or of another kind. The message names the remedy."""
