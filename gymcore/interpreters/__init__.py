"""
Interpreters with packages of their own, one for each plugin that needs others than are installed here.

`origins` and `core_view` say what is put into one, `building` makes it once, `describer` finds out what its plugin is
without importing it here, from `inside`, which runs there, and `stand_in` is what stands for it here.
"""
