"""serpy: a SIP proxy and registrar, SER reborn in Python."""

__version__ = "0.1.0"
