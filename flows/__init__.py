"""Rowshot's flows: each .py file here is one flow of the same name. `__main__.py` is the rowshot command."""
