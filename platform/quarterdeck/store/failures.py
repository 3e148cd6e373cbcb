"""What the database itself may raise, by what a caller can do about it."""

from __future__ import annotations

from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

Duplicate = IntegrityError
"""A unique key is taken, or a row that something points at is gone."""

REFUSED = (DataError,)
"""A value that the column cannot hold."""

UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)
"""No connection, no lock, or no time: the same request may succeed later."""
