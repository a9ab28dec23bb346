"""Everything that the privacy guarantee rests on: read this folder alone to audit it. Knows no
other part.
"""
