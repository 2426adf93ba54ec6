"""Omni-modal models: a thinker that sees, hears and writes, a talker that turns its thoughts into speech tokens, and a
code2wav that makes them sound. Engines run transformers' stock code, parts on one device in one engine."""
