"""
A composition over the wire: one process that existing trainers and clients use as they use a NeMo Gym installation.

`pip install 'gymcore[serve]'` brings what it is made of.
"""

from gymcore.serving.server import Address, Server, bind, serve

__all__ = ["Address", "Server", "bind", "serve"]
