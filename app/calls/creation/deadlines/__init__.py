"""SQL for the deadlines (`ring_by`) of scheduled calls that were dialled, or that a worker is about to dial.

Also deletes idle rows of `dial_turn`, the table of the order in which API keys and workloads take turns.
"""
