"""
The lock: what a composition became, and what has moved since.
"""
