"""Between floors 7 and 8: thin adapters to other people's tools, one small file each.

Nothing of those tools is imported before the adapter's own file is.
"""
