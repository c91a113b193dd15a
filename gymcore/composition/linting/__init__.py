"""
What is odd about rows together, and no mistake of any one of them.
"""
