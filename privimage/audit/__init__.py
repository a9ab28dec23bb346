"""The audit: what an attacker and a checker can find out about the code as it runs.

`attacks` guess from releases who was in, and `bounds` turns right guesses into a lower bound on
epsilon; `checks` and `observed_runs` look at what a run really used: its noise, its samples, its
clipping, its query, its ledger. All images are made up or bundled: nothing here is private.
"""
