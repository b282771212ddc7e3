"""Doors in: from whatever access the user has to findings."""
