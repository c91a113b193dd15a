"""
Where rows come from: files, hubs and addresses, opened the same way.
"""
