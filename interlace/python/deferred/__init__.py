"""Imports that wait for the first use, for a process that is the command's own: it starts in half the time.

While they are imported, diffusers and transformers import what few runs use: the compiler for a decorator, peft for an
`isinstance`, scipy for one kind of sigmas. `finder` finds the modules of `table` and doesn't run them; the first look
at what is in one runs it (`modules`). Where others take names out of a module at once (`from module import name`),
something stands for these names until they are used (`stand_ins`).
"""
