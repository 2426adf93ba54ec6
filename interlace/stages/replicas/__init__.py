"""Copies of one stage in processes of their own: messages, routing, restarts, requests that kill.

Knows what a `Stage` is, and nothing of pictures, models or HTTP.
"""
