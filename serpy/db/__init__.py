"""Database access: the interface, the tables, the caches and the way to the one writer."""
