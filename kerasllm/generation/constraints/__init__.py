"""Texts that are held to a form while they are made: a regular expression, choices, a JSON schema, a grammar.

What a regular expression allows is a table of states and kinds of tokens (automata.py), which a rule looks up inside of
the compiled loop (tables.py). What a schema or a grammar allows, llguidance says between tokens (grammars.py).
"""
