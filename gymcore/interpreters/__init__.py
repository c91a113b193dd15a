"""
Interpreters with packages of their own, one for each plugin that needs others than are installed here.

`origins` says what is put into one, `building` makes it once, `described` shows what its plugin is without importing
it here, and `describing` is what runs inside.
"""
