"""Finds calls that a worker may dial or has dialled, and whose deadline (`ring_by`) has passed, and changes the deadlines.

Also finds the accounts that have such calls, and deletes idle rows of `dial_turn`.
"""
