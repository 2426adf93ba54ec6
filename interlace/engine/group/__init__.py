"""One engine over several ranks: the first schedules, the others run its forwards with it.

Knows module calls and `torch.distributed`, and nothing of strands, requests or where ranks come from.
"""
