"""Floor 0: what every room stands on. Errors, files, seeds, progress, parameter trees, statistics.

Nothing in here knows about language models.
"""
