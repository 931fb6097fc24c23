"""Memory shared by all processes of one server."""
