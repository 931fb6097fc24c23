"""The programs beside the server: ``serpyctl`` (administration; ``quickstart`` is a part of it) and ``sercmd`` (RPC as in SER).

They work on the database and on the ctl socket of a server. The server never imports them.
"""
