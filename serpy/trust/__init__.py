"""Whom the server believes what, and what an unbelieved peer may cost (docs/trust.md)."""
