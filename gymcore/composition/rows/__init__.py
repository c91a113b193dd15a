"""
What a row is before it belongs to a mix: read, asked anew, filtered, checked, and given its route.
"""
