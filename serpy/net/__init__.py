"""Sockets, the event loop, and the way a message takes between processes."""
